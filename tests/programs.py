"""What contract tests over many exports need: programs compiled once, and seen to be."""

import contextlib

import jax.monitoring
import pytest

COMPILATIONS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILATIONS.append(event) if event.endswith("backend_compile_duration") else None
)


@contextlib.contextmanager
def no_compilation():
    """Nothing is compiled within."""
    before = len(COMPILATIONS)
    yield
    assert len(COMPILATIONS) == before, f"{len(COMPILATIONS) - before} programs were compiled again"


def once(make):
    """name → make(name), made when first asked for."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = make(name)
        return made[name]

    return of


def quick(names, *few):
    """Over `names`; those that are not among the `few` under slow."""
    return pytest.mark.parametrize("name", [n if n in few else pytest.param(n, marks=pytest.mark.slow) for n in names])
