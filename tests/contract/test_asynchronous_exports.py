"""What every exported algorithm without rounds must keep, whatever it computes. A new export is held to it without a word here."""

import dataclasses
import inspect
import re

import equinox as eqx
import numpy as np
import pytest

import exports
import thalweg as tw

NAMES = tw.asynchronous.__all__
CLOCKS = {"independent": tw.Clocks(), "delay": tw.Clocks(latency=0.5, jitter=0.5)}
CLOCKS["asleep"] = tw.Clocks(
    availability=tw.fleet.intervals(*np.split(np.array([[0.0, 20.0], [5.0, 40.0]] * 3), 2, axis=1), 40.0)
)


def parts(name):
    """(class, problem, network, what all agents are to find)."""
    kind = getattr(tw.asynchronous, name)
    like = "PushSum" if "measurements" in kind.needs else "EdgeADMM"
    values = exports.data(like)
    directed = "undirected" not in kind.needs and not kind.per_neighbour
    network = tw.network.from_edges(exports.ARCS if directed else exports.EDGES, exports.N, directed=directed)
    return kind, exports.problem(like, values), network, exports.minimiser(like, values)


@pytest.mark.parametrize("name", NAMES)
def test_documentation_and_declarations(name):
    kind = getattr(tw.asynchronous, name)
    text = inspect.getdoc(kind)
    assert re.search(r"←|_i\s*=", text), "the recursion is missing from the docstring"
    assert re.search(r"\*[^*]+\*.*\b(19|20)\d\d", text, re.DOTALL), "the paper (*title*, year) is missing from the docstring"
    assert issubclass(kind, tw.algorithm.AsynchronousAlgorithm) and issubclass(kind, eqx.Module)
    assert isinstance(kind.claims, tw.algorithm.Claims) and kind.claims.theorem
    assert kind.exact_under <= {"independent", "asleep", "delay"}
    for field in dataclasses.fields(kind):
        assert re.search(rf"\b{field.name}\b", text), f"the docstring does not mention {field.name}"
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(kind(), field.name, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("failure", CLOCKS)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_exact_under_what_it_declares(name, failure):
    kind, problem, network, expected = parts(name)
    if failure not in kind.exact_under:
        pytest.skip(f"{name} does not declare it")
    if failure == "independent":
        network = network.with_failures(loss=0.3, symmetric=False)
    result = tw.solve(problem, kind(), network, rounds=1500, every=1500, engine=tw.EventDriven(clocks=CLOCKS[failure]))
    np.testing.assert_allclose(exports.flat(result.agents), np.broadcast_to(expected, (exports.N, len(expected))), atol=1e-8)
