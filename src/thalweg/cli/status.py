"""`thalweg status` and `thalweg stop`: what sites of this machine are doing, and an end to it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import BROKEN, OUT, fail, mistakes
from .sites import state_table

if TYPE_CHECKING:
    from thalweg.deploy.folder import SiteFolder

Place = Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A run's folder, or a site's, or one with several.")]
# Until a site that was asked to stop is taken to be stuck.
PATIENCE = 30.0


def status(folder: Place = Path("runs")) -> None:
    """Show how far the sites on this machine are: round, lag, epoch, rejected messages."""
    with mistakes():
        found: dict[Path, list] = {}
        for site in _sites(folder):
            found.setdefault(site.path.parent, []).append(site.status())
        for place, statuses in found.items():
            OUT.print(state_table(statuses, f"{statuses[0]['experiment']}, in {place}"))


def stop(folder: Place = Path("runs")) -> None:
    """End the sites on this machine, so that they can go on later."""
    with mistakes():
        asked = [site for site in _sites(folder) if site.status()["state"] in ("waiting", "running")]
        if not asked:
            raise ValueError(f"no site runs in {folder}")
        for site in asked:
            site.ask_to_stop()
        end = time.monotonic() + PATIENCE
        while (left := [site for site in asked if site.status()["state"] in ("waiting", "running")]) and time.monotonic() < end:
            time.sleep(0.2)
        for site in asked:
            if site not in left:
                OUT.print(f"{site.status()['site']}: {site.status()['state']}", markup=False)
        if left:
            fail(f"{', '.join(map(str, left))} did not end within {PATIENCE:g} s", BROKEN)


def _sites(folder: Path) -> "list[SiteFolder]":
    from thalweg.deploy.folder import SiteFolder

    found = SiteFolder.below(folder)
    if not found:
        raise ValueError(f"there is no site in {folder}; name the folder that was given to `thalweg join` or `thalweg up`")
    return found
