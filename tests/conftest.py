"""Strict settings: float64, no silent broadcasting, jaxtyping and beartype on, several devices to shard over."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["COLUMNS"] = "120"  # what commands print does not depend on who looks

from jaxtyping import install_import_hook

# Not the parts that speak NumPy and plain Python to users: their own messages are tested, and a type checker would speak first.
CHECKED = ["algorithm", "coupling", "data", "engine", "message", "models", "observe", "problem"]

with install_import_hook([f"thalweg.{part}" for part in CHECKED], "typechecking.check"):
    import thalweg

    thalweg.solve  # noqa: B018  (public names load on first use; load them under the type checker)

import jax  # noqa: E402
from hypothesis import settings  # noqa: E402

# A machine that is busy is slow, and no example of a law is wrong for that.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Every compiled program keeps memory maps open; a process may have 65,530, and XLA dies without a word beyond that.
MANY_MAPS, MOST_MAPS = 25_000, 40_000


def pytest_runtest_teardown(item, nextitem):
    """Forget programs when there are too many, or many and the next file begins."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    between = nextitem is None or nextitem.path != item.path
    if len(maps.read_bytes().splitlines()) > (MANY_MAPS if between else MOST_MAPS):
        jax.clear_caches()
