"""Who depends on whom: examples of which the answer is known, and every operation beside its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.coupling.dependence import dependence


def masses(n):
    """(variables, dynamics) of a chain: each mass has a spring to the one before and the one after."""
    names = [f"mass {i}" for i in range(n)]

    def moves(i):
        def f(v):
            own = v[names[i]]
            pull = sum(v[names[j]]["position"] - own["position"] for j in (i - 1, i + 1) if 0 <= j < n)
            return {"position": own["position"] + own["speed"], "speed": own["speed"] + pull + own["force"]}

        return f

    variables = {name: {"position": 0.0, "speed": 0.0, "force": 0.0} for name in names}
    return variables, {name: moves(i) for i, name in enumerate(names)}


def test_a_chain_of_masses_is_a_line():
    variables, dynamics = masses(5)
    found = tw.coupling.analyse(variables, dynamics=dynamics)
    assert {tuple(edge) for edge in found.edges} == {(i, i + d) for i in range(5) for d in (-1, 1) if 0 <= i + d < 5}
    assert found.kinds("mass 1", "mass 2") == ("dynamics",) and found.kinds("mass 0", "mass 2") == ()
    assert found.equations[1].occurs["mass 0"] == ("position",)  # neither its speed nor its force
    assert found.hears("mass 0") == ("mass 1",)
    np.testing.assert_array_equal(found.undirected, [[i, i + 1] for i in range(4)])
    network = tw.network.from_edges(found.edges, n=found.n, directed=True)
    assert network.n == 5
    assert tw.network.from_edges(found.undirected).edges.shape == (4, 2)
    assert "mass 0 ↔ mass 1  dynamics" in str(found)


def test_water_flows_down():
    """A tank hears the one above, whose outflow it takes, and not the one below."""
    tanks = {name: {"level": 1.0, "inflow": 0.0} for name in ("top", "middle", "bottom")}

    def fills(name, above):
        def f(v):
            taken = 0.0 if above is None else 0.1 * jnp.sqrt(v[above]["level"])
            return v[name]["level"] + v[name]["inflow"] + taken - 0.1 * jnp.sqrt(v[name]["level"])

        return f

    dynamics = {"top": fills("top", None), "middle": fills("middle", "top"), "bottom": fills("bottom", "middle")}
    costs = {name: lambda v, name=name: (v[name]["level"] - 1) ** 2 for name in tanks}
    found = tw.coupling.analyse(tanks, dynamics=dynamics, costs=costs)
    assert found.arcs() == (("top", "middle"), ("middle", "bottom"))
    assert found.arcs("cost") == ()
    assert "top → middle  dynamics" in str(found)


def test_two_factories_and_one_power_limit():
    factories = {name: {"stock": 0.0, "power": np.zeros(2)} for name in ("east", "west")}
    dynamics = {name: lambda v, name=name: v[name]["stock"] + jnp.sum(v[name]["power"]) for name in factories}
    found = tw.coupling.analyse(
        factories, dynamics=dynamics, shared={"power limit": lambda v: v["east"]["power"] + v["west"]["power"]}
    )
    assert found.arcs("dynamics") == () and found.arcs("cost") == ()
    assert found.arcs("constraint") == (("west", "east"), ("east", "west"))
    assert found.equations[2].name == "power limit[0]" and found.equations[2].occurs["west"] == ("power[0]",)
    apart = tw.coupling.analyse(factories, shared={"own": lambda v: jnp.stack([v["east"]["stock"], v["west"]["stock"]])})
    assert apart.edges.shape == (0, 2) and "coupled with nobody: east, west" in str(apart)


def test_what_counts_as_occurring():
    pair = {"a": 1.0, "b": 1.0}
    arcs = lambda f: tw.coupling.analyse(pair, costs={"a": f}).arcs()
    hears_b = (("b", "a"),)
    assert arcs(lambda v: v["a"] + 0 * v["b"]) == ()  # a zero that is known
    assert arcs(lambda v: jnp.array([1.0, 0.0]) @ jnp.stack([v["a"], v["b"]])) == ()  # also in a matrix
    assert arcs(lambda v: v["a"] * jax.lax.stop_gradient(v["b"])) == hears_b
    assert arcs(lambda v: v["a"] + v["b"] - v["b"]) == hears_b
    assert arcs(lambda v: jnp.where(v["b"] > 0, v["a"], 2 * v["a"])) == hears_b
    assert arcs(lambda v: jnp.where(jnp.array(True), v["a"], v["b"])) == ()  # a choice that is known
    assert arcs(lambda v: jax.lax.cond(v["b"] > 0, lambda: v["a"], lambda: -v["a"])) == hears_b
    assert arcs(lambda v: jax.lax.cond(v["a"] > 9, lambda: v["b"], lambda: v["a"])) == hears_b  # a branch that may be taken
    assert arcs(lambda v: jax.lax.while_loop(lambda c: c < v["b"], lambda c: c + 1.0, v["a"])) == hears_b
    assert arcs(lambda v: jax.lax.fori_loop(0, 3, lambda k, c: c + v["b"], v["a"])) == hears_b


def test_without_effect_is_said():
    found = tw.coupling.analyse({"a": 1.0, "b": 1.0}, costs={"a": lambda v: v["a"] + v["b"] - v["b"]})
    assert found.equations[0].idle == {"b": ("x",)}
    assert "x of b occurs in cost of a without effect at 3 random points" in str(found)
    silent = tw.coupling.analyse({"a": 1.0, "b": 1.0}, costs={"a": lambda v: v["a"] + v["b"] - v["b"]}, points=0)
    assert silent.equations[0].idle == {} and silent.arcs() == found.arcs()


x = np.arange(1.0, 7.0)
EXACT = {
    "index": lambda v: v[2],
    "gather": lambda v: v[np.array([3, 1])],
    "set": lambda v: v.at[1].set(v[4]),
    "add": lambda v: v.at[1:3].add(v[5]),
    "concatenate": lambda v: jnp.concatenate([v[3:], v[:1]]),
    "reshape": lambda v: v.reshape(2, 3).T[::-1],
    "pad": lambda v: jnp.pad(v, (1, 2)),
    "roll": lambda v: jnp.roll(v, 2),
    "diff": jnp.diff,
    "stack": lambda v: jnp.stack([v, v[::-1]])[:, 2:4],
    "split": lambda v: jnp.split(v, 3)[1],
    "sum": lambda v: jnp.sum(v.reshape(2, 3), axis=1),
    "cumsum": jnp.cumsum,
    "reverse cumsum": lambda v: jax.lax.cumsum(v, reverse=True),
    "banded matrix": lambda v: (np.eye(6) + np.eye(6, k=1)) @ v,
    "batched matrix": lambda v: jnp.einsum("bij,bj->bi", np.stack([np.eye(3), np.tri(3)]), v.reshape(2, 3)),
    "outer": lambda v: jnp.outer(v[:2], v[2:4]),
    "scan": lambda v: jax.lax.scan(lambda c, t: (c * t, c), v[0], v)[1],
    "reverse scan": lambda v: jax.lax.scan(lambda c, t: (c + t, c), 0.0, v, reverse=True)[1],
    "fori": lambda v: jax.lax.fori_loop(0, 3, lambda k, c: c + v[k], v[5]),
    "vmap": lambda v: jax.vmap(lambda k: jax.lax.dynamic_slice(v, (k,), (2,)))(jnp.arange(3)),
    "custom": lambda v: jax.nn.softplus(v) + jnp.clip(v, 0, 9),
    "checkpoint": lambda v: jax.checkpoint(lambda w: jnp.sin(w[::2]))(v),
    "jit": lambda v: jax.jit(lambda w: w[1:] * w[:-1])(v),
}
CONSERVATIVE = {
    "solve": lambda v: jnp.linalg.solve(np.eye(6), v),
    "sort": jnp.sort,
    "maximum": lambda v: jnp.max(v.reshape(3, 2), axis=1),
    "convolve": lambda v: jnp.convolve(v, jnp.ones(3), "same"),
    "dynamic index": lambda v: v[v[0].astype(int)],
    "dynamic set": lambda v: v.at[v[0].astype(int)].set(v[1]),
    "long scan": lambda v: jax.lax.scan(lambda c, t: (c, t * c), v[0], jnp.zeros(300))[1],
    "long carry": lambda v: jax.lax.fori_loop(0, 300, lambda k, c: c.at[1:].set(c[:-1]), v),
    "norm": lambda v: jnp.linalg.norm(v[:3]),
}


def pattern(function):
    deps = np.concatenate([np.ravel(leaf) for leaf in dependence(function, x)[0]])
    return np.array([[row >> k & 1 for k in range(6)] for row in deps], bool)


def jacobian(function):
    found = np.zeros(1, bool)
    for seed in range(4):
        point = np.abs(np.random.default_rng(seed).standard_normal(6)) + 0.1
        found = found | (np.atleast_1d(jax.jacfwd(function)(point)).reshape(-1, 6) != 0)
    return found


@pytest.mark.parametrize("name", EXACT)
def test_entry_by_entry_it_is_the_sparsity_of_the_jacobian(name):
    np.testing.assert_array_equal(pattern(EXACT[name]), jacobian(EXACT[name]))


@pytest.mark.parametrize("name", CONSERVATIVE)
def test_it_never_misses_an_entry(name):
    assert not (jacobian(CONSERVATIVE[name]) & ~pattern(CONSERVATIVE[name])).any()


def test_a_dynamic_index_may_point_at_anybody():
    agents = dict.fromkeys("abc", 0.0)
    found = tw.coupling.analyse(agents, costs={"a": lambda v: jnp.stack([v[k] for k in "abc"])[v["a"].astype(int)]})
    assert found.arcs() == (("b", "a"), ("c", "a"))
    fixed = tw.coupling.analyse(agents, costs={"a": lambda v: jnp.stack([v[k] for k in "abc"])[1]})
    assert fixed.arcs() == (("b", "a"),)


def test_agents_keep_their_order():
    found = tw.coupling.analyse({"z": 0.0, "a": 0.0}, costs={"z": lambda v: v["a"]})
    assert found.agents == ("z", "a")
    np.testing.assert_array_equal(found.edges, [[1, 0]])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ValueError, "no equations"),
        ({"costs": {"c": lambda v: v["a"]}}, ValueError, "'c', who has no variables"),
        ({"costs": {"a": 3}}, TypeError, "expected a function"),
        ({"costs": {"a": lambda v: v["q"]}}, ValueError, "asks for 'q'"),
        ({"costs": {"a": lambda v: v["a"] if v["a"] > 0 else 0}}, TypeError, r"jax\.lax\.cond"),
        ({"costs": {"a": lambda v: "much"}}, ValueError, "fails on the examples"),
    ],
)
def test_mistakes_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        tw.coupling.analyse({"a": 0.0, "b": 0.0}, **options)


def test_no_variables():
    with pytest.raises(ValueError, match="mapping from agents"):
        tw.coupling.analyse({}, costs={})
    found = tw.coupling.analyse({"a": 0.0}, costs={"a": lambda v: v["a"]})
    with pytest.raises(ValueError, match="expected one of 'a'"):
        found.hears("b")
    with pytest.raises(ValueError, match="expected 'dynamics'"):
        found.arcs("costs")
