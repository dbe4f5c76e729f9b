"""Parts of pages."""

from importlib import resources


def read(name: str) -> str:
    """The text of a part."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
