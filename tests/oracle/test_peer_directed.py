"""PushPull and PushDIGing against their recursions written with matrices, under failures, and where they meet other methods.

Axes: `n` agents, `d` variables.
"""

import numpy as np
import pytest

import thalweg as tw
from support import agents, assert_follows, gradients, quadratics

WEIGHTS = (1, 2, 3, 1, 2, 3)
# Strongly connected; nobody hears as many as hear him.
ARROWS = tw.network.from_edges([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3), (0, 4), (2, 5), (1, 5)], directed=True)
METHODS = [tw.PushPull(step_size=0.05), tw.PushDIGing(step_size=0.05)]
EVERY_FAILURE = [{"loss": 0.2, "symmetric": False}, {"asleep": 0.3}, {"delay": (0.6, 0.3, 0.1)}]


def test_the_network_is_not_balanced():
    """Else A = B would be doubly stochastic, and the tests below could not tell push from pull."""
    assert ARROWS.mixing is None
    assert np.abs(ARROWS.pull.toarray() - ARROWS.push.toarray()).max() > 0.1


def test_push_pull_follows_the_stacked_recursion():
    problem, A, b, _ = quadratics(6, 3, 0, weights=WEIGHTS)
    pull, push, gradient = ARROWS.pull.toarray(), ARROWS.push.toarray(), gradients(A, b)
    x = [np.zeros((6, 3))]
    y = gradient(x[0])
    for _ in range(20):
        x.append(pull @ (x[-1] - 0.05 * y))
        y = push @ y + gradient(x[-1]) - gradient(x[-2])
    assert_follows(problem, METHODS[0], ARROWS, x)


def test_push_diging_follows_the_stacked_recursion():
    problem, A, b, _ = quadratics(6, 3, 0, weights=WEIGHTS)
    push, gradient = ARROWS.push.toarray(), gradients(A, b)
    x, u, v = [np.zeros((6, 3))], np.zeros((6, 3)), np.ones((6, 1))
    y = gradient(x[0])
    for _ in range(20):
        u, v = push @ (u - 0.05 * y), push @ v
        x.append(u / v)
        y = push @ y + gradient(x[-1]) - gradient(x[-2])
    assert_follows(problem, METHODS[1], ARROWS, x)


@pytest.mark.parametrize("method", METHODS)
def test_the_default_step_reaches_the_optimum(method):
    problem, _, _, x_star = quadratics(6, 3, 0, weights=WEIGHTS)
    x = agents(problem, type(method)(), ARROWS, 6000)
    np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("failure", EVERY_FAILURE, ids=lambda failure: next(iter(failure)))
@pytest.mark.parametrize("method", METHODS)
def test_exact_and_nothing_lost_under_failures(method, failure):
    """Σ y_i, with what is still on its way, is Σ ∇φ_i(x_i); so is Σ v_i = n."""
    problem, A, b, x_star = quadratics(6, 3, 0, weights=WEIGHTS)
    result = tw.solve(problem, method, ARROWS.with_failures(**failure), rounds=12, every=12)
    state, flying = result.records.state, in_flight(result)
    assert np.abs(flying["y"]).max() > 1e-3  # something is on its way
    total = np.asarray(state.y).sum(0) + flying["y"]
    np.testing.assert_allclose(total, gradients(A, b)(np.asarray(state.x)).sum(0), atol=1e-12)
    if "v" in flying:
        np.testing.assert_allclose(np.asarray(state.v).sum() + flying["v"], 6, rtol=1e-13)
    # v dips when messages fail to come, hence the smaller step.
    method = tw.PushDIGing(step_size=0.015) if "v" in flying else method
    x = agents(problem, method, ARROWS.with_failures(**failure), 8000)
    np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-9)


def in_flight(result):
    """Per pushed field: what was given on all edges and has not arrived, summed."""
    exists = ARROWS.slots().mask
    mail = {name: box for name, box in result.records.mail.items() if len(np.shape(box.total))}
    return {
        name: (np.asarray(box.total) - np.asarray(box.newest))[exists].sum(0)  # [slots of all agents, ...]
        for name, box in mail.items()
    }


def test_push_pull_bears_all_failures_at_once():
    problem, _, _, x_star = quadratics(6, 3, 0, weights=WEIGHTS)
    network = ARROWS.with_failures(loss=0.2, symmetric=False, asleep=0.3, delay=(0.6, 0.3, 0.1))
    x = agents(problem, METHODS[0], network, 8000)
    np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-9)


@pytest.mark.parametrize("method", [tw.PushPull(step_size=0.1), tw.PushDIGing(step_size=0.1)])
def test_on_a_ring_both_are_gradient_tracking(method):
    problem, *_ = quadratics(6, 3, 0, weights=WEIGHTS)
    ring = tw.network.ring(6)
    expected = agents(problem, tw.GradientTracking(step_size=0.1, order="atc"), ring, 25)
    np.testing.assert_allclose(agents(problem, method, ring, 25), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", [tw.PushPull(step_size=0.2), tw.PushDIGing(step_size=0.2)])
def test_one_agent_descends_its_own_gradient(method):
    problem, A, b, _ = quadratics(1, 3, 5)
    x = np.zeros(3)
    for _ in range(9):
        x = x - 0.2 * (A[0] @ x + b[0])
    np.testing.assert_allclose(agents(problem, method, tw.network.complete(1), 9)[0], x, rtol=1e-12)
