"""What engines do for speed, against the program as it was written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.engine.outer import TERMS, written_out
from thalweg.engine.sequential import Rows, Sequential

ZERO = jnp.asarray(0, jnp.uint32)
# Subscripts of a batched product of two arrays, sizes, and whether it is a short sum of outer products.
PRODUCTS = {
    "as it comes": ("cki,cko->cio", {"c": 5, "k": 4, "i": 3, "o": 2}, True),
    "transposed": ("cki,cko->coi", {"c": 5, "k": 4, "i": 3, "o": 2}, True),
    "terms last": ("cik,ock->cio", {"c": 5, "k": TERMS, "i": 3, "o": 2}, True),
    "two axes of terms": ("cijk,cjok->cio", {"c": 5, "j": 2, "k": 3, "i": 3, "o": 2}, True),
    "two axes of clients": ("cdki,dcko->cdio", {"c": 5, "d": 3, "k": 4, "i": 3, "o": 2}, True),
    "several free axes": ("ckij,ckop->ciojp", {"c": 5, "k": 4, "i": 3, "j": 2, "o": 2, "p": 4}, True),
    "one term": ("cki,cko->coi", {"c": 5, "k": 1, "i": 3, "o": 2}, True),
    "too many terms": ("cki,cko->cio", {"c": 5, "k": TERMS + 1, "i": 3, "o": 2}, False),
    "matrix by vector": ("cki,ck->ci", {"c": 5, "k": 4, "i": 3}, False),
    "one client": ("ki,ko->io", {"k": 4, "i": 3, "o": 2}, False),
}


def factors(subscripts, sizes, dtype):
    rng = np.random.default_rng(0)
    return [rng.standard_normal([sizes[axis] for axis in part]).astype(dtype) for part in subscripts.split("->")[0].split(",")]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("case", PRODUCTS)
def test_short_products_are_written_out(case, dtype, tolerance):
    """Equal to NumPy's; and written out where, and only where, they are short sums of outer products."""
    subscripts, sizes, short = PRODUCTS[case]
    a, b = factors(subscripts, sizes, dtype)
    found = jax.jit(lambda zero, a, b: written_out(lambda a, b: jnp.einsum(subscripts, a, b), zero)(a, b))(ZERO, a, b)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, np.einsum(subscripts, a, b), rtol=tolerance, atol=tolerance)
    if jax.default_backend() == "cpu":
        program = jax.make_jaxpr(lambda zero: written_out(lambda a, b: jnp.einsum(subscripts, a, b), zero)(a, b))(ZERO)
        assert ("dot_general" not in str(program)) == short


def test_other_numbers_keep_their_product():
    """Integers and half precision, whose products have rules of their own."""
    for dtype in (jnp.int32, jnp.bfloat16):
        a, b = (jnp.asarray(leaf, dtype) for leaf in factors("cki,cko", PRODUCTS["as it comes"][1], np.float32))
        program = jax.make_jaxpr(lambda zero, a=a, b=b: written_out(lambda: jnp.einsum("cki,cko->cio", a, b), zero)())(ZERO)
        assert "dot_general" in str(program)


def test_gradients_in_loops_are_written_out():
    """Steps of a small network inside scan, while and cond: the same parameters."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((5, 6, 4, 3)), rng.standard_normal((5, 6, 4))
    start = {"in": rng.standard_normal((5, 3, 7)), "out": rng.standard_normal((5, 7))}

    def loss(w, x, y):
        return jnp.mean((jnp.tanh(x @ w["in"]) @ w["out"] - y) ** 2)

    def client(w, x, y):
        step = lambda w, batch: jax.tree.map(lambda a, g: a - 0.1 * g, w, jax.grad(loss)(w, *batch))
        w = jax.lax.scan(lambda w, batch: (step(w, batch), None), w, (x, y))[0]
        w = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, step(c[1], (x[c[0]], y[c[0]]))), (0, w))[1]
        return jax.lax.cond(w["out"][0] > 0, lambda w: step(w, (x[0], y[0])), lambda w: w, w)

    everyone = jax.vmap(client)
    found = jax.jit(lambda zero, *args: written_out(everyone, zero)(*args))(ZERO, start, x, y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, jax.jit(everyone)(start, x, y))


LAYOUT = ("NHWC", "HWIO", "NHWC")
# Options of a convolution of 6 × 6 images with 4 channels and 3 × 3 kernels.
CONVOLUTIONS = {
    "valid": {"window_strides": (1, 1), "padding": "VALID"},
    "same": {"window_strides": (1, 1), "padding": "SAME"},
    "strides": {"window_strides": (2, 2), "padding": "SAME"},
    "dilated": {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 2)},
    "grouped": {"window_strides": (1, 1), "padding": "VALID", "feature_group_count": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [tw.FedAvg, pytest.param(tw.SCAFFOLD, marks=pytest.mark.slow)], ids=lambda a: a.__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "valid" else pytest.mark.slow) for n in CONVOLUTIONS])
def test_convolutions_one_after_another_agree_with_side_by_side(name, dtype, tolerance, algorithm):
    rng = np.random.default_rng(2)
    options = CONVOLUTIONS[name]
    images = rng.standard_normal((7, 4, 6, 6, 4)).astype(dtype)

    def loss(x, image):
        h = jax.lax.conv_general_dilated(image[None], x["kernel"], dimension_numbers=LAYOUT, **options)
        return jnp.mean(jnp.tanh(h) ** 2) + 0.1 * jnp.sum(x["bias"] ** 2)

    depth = 4 // options.get("feature_group_count", 1)
    start = {"kernel": 0.3 * rng.standard_normal((3, 3, depth, 6)).astype(dtype), "bias": np.ones((), dtype)}
    problem = tw.EmpiricalRisk(loss, images, start)
    rule = algorithm(tw.LocalSGD(0.1, epochs=1, batch_size=2), cohort=3)
    one, all_ = (tw.solve(problem, rule, rounds=3, engine=tw.Simulated(plan=plan)) for plan in ("sequential", "vmap"))
    assert "one after another" in one.config["engine"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one.x, all_.x)
    np.testing.assert_allclose(one.history["objective"], all_.history["objective"], rtol=tolerance)


def test_messages_kept_apart_are_added_up_as_a_stack_is():
    """More rows than one call adds, numbers and arrays, and one that is lost and not finite."""
    rng = np.random.default_rng(3)
    stack = {"a": rng.standard_normal((23, 3)), "b": rng.standard_normal(23)}
    stack["a"][4] = np.nan
    weights = jnp.asarray(rng.uniform(size=23)).at[4].set(0)
    rows = jax.tree.map(lambda leaf: Rows([jnp.asarray(row) for row in leaf]), stack)
    executor = Sequential(isolated=False)
    jax.tree.map(np.testing.assert_array_equal, executor.everyone(rows), stack)
    expected = jax.tree.map(lambda leaf: np.tensordot(weights, np.nan_to_num(leaf), 1), stack)
    found = executor.weighted("mean", weights, rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)
