"""Compressors keep their laws: what is sent is what is decoded, in as many bytes as said, as near to the message as said.

One table over all exports: a new one that is not in it fails the first test. Statistical bounds are six standard deviations.
Axes: `d` numbers of a message, `t` trials.
"""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg import message
from thalweg.message import compress

TRIALS, D = 4000, 60
KEY = jax.random.key(0)
STAGES = {
    "top_k": message.top_k(0.1),
    "top_k, all": message.top_k(1.0),
    "random_k": message.random_k(0.2),
    "random_k, unscaled": message.random_k(0.2, scale=False),
    "subsample": message.subsample(0.25),
    "threshold": message.threshold(0.3, at_most=0.2),
    "block_top_k": message.block_top_k(0.1, block=16),
    "block_top_k, many": message.block_top_k(0.7, block=16),
    "quantise": message.quantise(8, block=32),
    "quantise, 4 bits": message.quantise(4),
    "quantise, 2 bits": message.quantise(2, block=8),
    "qsgd": message.qsgd(3),
    "qsgd, fine": message.qsgd(40),
    "sign": message.sign(),
    "natural": message.natural(),
    "power_sgd": message.power_sgd(2),
    "rotate": message.rotate(message.quantise(4), block=64),
    "rotate, top_k": message.rotate(message.top_k(0.2)),
    "error_feedback": message.error_feedback(message.top_k(0.1)),
    "ef21": message.ef21(message.sign()),
    "top_k of 8 bits": message.chain(message.top_k(0.2), message.quantise(8, block=8)),
    "random and natural": message.chain(message.random_k(0.5), message.natural()),
    "ef21 of a chain": message.ef21(message.chain(message.top_k(0.2), message.quantise(4, block=8))),
    "identity and ef21": message.chain(message.identity(), message.ef21(message.top_k(0.2))),
    "identity": message.identity(),
}
MEMORIES = {"error_feedback", "ef21", "ef21 of a chain", "identity and ef21"}
QUICK = ("top_k", "sign")
STATELESS = [name for name in STAGES if name not in MEMORIES]

DERIVED = {
    "top_k, all",
    "block_top_k, many",
    "quantise, 4 bits",
    "qsgd, fine",
    "rotate, top_k",
    "random and natural",
    "ef21 of a chain",
}
marked = lambda names: [pytest.param(name, marks=pytest.mark.slow) if name in DERIVED else name for name in names]
every_stage = pytest.mark.parametrize("name", marked(STAGES))
every_stateless = pytest.mark.parametrize("name", marked(STATELESS))


def sample(seed=0, dtype=np.float64):
    """A message of three leaves, one of them whole numbers, in another precision each; some entries are large, some zero."""
    rng = np.random.default_rng(seed)
    heavy = rng.standard_normal((9, 14)) * np.exp(2 * rng.standard_normal((9, 14)))
    heavy[3, :5] = 0
    return {"a": jnp.asarray(heavy, dtype), "b": jnp.asarray(rng.standard_normal(7), np.float32), "n": jnp.arange(3)}


def spec(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def vector(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@functools.cache
def program(name):
    """(messages `[t, D]`, keys `[t]`) → what each of t agents sends, compiled once."""
    stage = STAGES[name]
    encode = lambda m, key: stage.encode(stage.init(spec(m)), m, key)[2]
    return jax.jit(jax.vmap(encode))


def trials(name, m, seed=0):
    """`[t, D]` what is sent of one vector, with fresh randomness each time."""
    keys = jax.random.split(jax.random.key(seed), TRIALS)
    return np.asarray(program(name)(jnp.broadcast_to(jnp.asarray(m), (TRIALS, D)), keys))


def rounds(stage, messages, seed=0):
    """(states, what was sent) of a sequence of messages."""
    state, states, sents, encode = stage.init(spec(messages[0])), [], [], jax.jit(stage.encode)
    for k, one in enumerate(messages):
        state, _, sent = encode(state, one, jax.random.fold_in(jax.random.key(seed), k))
        states.append(state)
        sents.append(sent)
    return states, sents


def test_the_table_has_every_export():
    builders = {name for name in compress.__all__ if inspect.isfunction(getattr(compress, name))} - {"entropy_bits"}
    assert builders <= {name.partition(",")[0] for name in STAGES}


@every_stage
def test_what_is_sent_is_what_is_decoded_and_its_bytes_are_those_of_the_packed_wire(name):
    stage, one = STAGES[name], sample()
    state = stage.init(spec(one))
    replica, encode = jax.tree.map(jnp.zeros_like, one), jax.jit(stage.encode)
    decode = jax.jit(lambda wire: stage.decode(wire, spec(one)))
    shapes = jax.eval_shape(lambda m: stage.encode(state, m, jax.random.key(0))[1], one)
    for k in range(3):
        state, wire, sent = encode(state, sample(k), jax.random.fold_in(jax.random.key(0), k))
        packed = message.pack(wire)
        assert len(packed) == message.payload_bytes(wire) == message.payload_bytes(shapes)
        decoded = decode(message.unpack(packed, shapes))
        if stage.after(message.Flow()).replicated:
            replica = jax.tree.map(lambda r, c: r + c if r.dtype != int else c, replica, decoded)
            decoded = replica
        assert jax.tree.structure(sent) == jax.tree.structure(one)
        for a, b, like in zip(*map(jax.tree.leaves, (sent, decoded, one)), strict=True):
            assert a.shape == like.shape and a.dtype == like.dtype
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(sent["n"], one["n"])


@pytest.mark.slow
@every_stage
def test_agents_side_by_side_do_not_hear_each_other(name):
    """What one sends is a function of its own message and key, wherever it stands, beside whatever others send."""
    messages = np.random.default_rng(0).standard_normal((TRIALS, D)) * 10.0 ** np.arange(-2, 2)[:, None].repeat(TRIALS // 4, 0)
    keys, order = jax.random.split(KEY, TRIALS), np.random.default_rng(1).permutation(TRIALS)
    sent = np.asarray(program(name)(messages, keys))
    moved = np.asarray(program(name)(messages[order], keys[order]))
    np.testing.assert_array_equal(moved, sent[order])
    stage, m = STAGES[name], jnp.asarray(messages[-1])
    if name in QUICK:
        np.testing.assert_allclose(stage.encode(stage.init(spec(m)), m, keys[-1])[2], sent[-1], rtol=1e-12, atol=1e-300)


@every_stage
def test_single_precision_stays_single_and_an_empty_message_is_no_message(name):
    stage = STAGES[name]
    for one in (sample(dtype=np.float32), {"n": jnp.arange(3)}):
        state, _, sent = jax.eval_shape(stage.encode, jax.eval_shape(lambda one=one: stage.init(spec(one))), one, KEY)
        assert {leaf.dtype for leaf in jax.tree.leaves((state, sent)) if leaf.dtype != int} <= {np.dtype("float32")}


def test_half_precision_is_computed_in_single():
    one = {"h": jnp.asarray([1.0, -0.5, 0.25, 3.0], jnp.bfloat16), "s": jnp.asarray([0.5], jnp.float16)}
    for stage in (message.top_k(0.4), message.natural(), message.rotate(message.quantise(8))):
        _, _, sent = jax.jit(stage.encode)((), one, KEY)
        assert (sent["h"].dtype, sent["s"].dtype) == (jnp.bfloat16, jnp.float16)
    assert message.top_k(0.4).encode((), one, jax.random.key(0))[2]["h"].tolist() == [1, 0, 0, 3]


EXTREMES = {
    "spread": np.exp(2 * np.random.default_rng(1).standard_normal(60)) * np.random.default_rng(2).choice([-1, 1], 60),
    "equal": np.ones(60),
    "alone": np.eye(60)[7],
    "halves": np.where(np.arange(60) == 0, 7.0, 0.43),  # nearly the worst case of scales by the largest entry
    "nothing": np.zeros(60),
}


@pytest.mark.parametrize("case", EXTREMES)
@every_stateless
def test_unbiasedness_and_the_constants_hold(name, case):
    stage, m = STAGES[name], EXTREMES[case]
    sent = trials(name, m)
    errors = np.sum((sent - m) ** 2, axis=1)
    mean, noise = errors.mean(), 6 * errors.std() / np.sqrt(TRIALS)
    size = np.sum(m**2)
    delta, omega = stage.contraction(spec(jnp.asarray(m))), stage.variance(spec(jnp.asarray(m)))
    if delta is not None:
        assert mean <= (1 - delta) * size * (1 + 1e-6) + noise
    if omega is not None:
        assert mean <= omega * size * (1 + 1e-6) + noise
        # 10/t of the largest for what happens so rarely that no trial may have it
        bound = 6 * sent.std(axis=0) / np.sqrt(TRIALS) + (10 / TRIALS + 1e-6) * np.abs(sent).max()
        assert (np.abs(sent.mean(axis=0) - m) <= bound).all()
    assert stage.after(message.Flow()).unbiased == (omega is not None)


TIGHT = [
    ("top_k", "equal"), ("random_k", "equal"), ("random_k, unscaled", "spread"), ("subsample", "alone"), ("block_top_k", "equal"),
    ("sign", "alone"), ("qsgd", "equal"), ("natural", "thirds"), ("quantise, 2 bits", "worst"),
    ("quantise, 4 bits", "worst"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "case"), TIGHT)
def test_the_constants_are_attained(name, case):
    """By messages that theory names."""
    stage, d = STAGES[name], D
    if case == "thirds":
        m = np.full(d, 4 / 3) * 2.0 ** np.arange(-30, 30)
    elif case == "worst":
        block, levels = min(d, stage.block), stage.levels
        a = levels**2 / max(1, block - 1)
        m = np.where(np.arange(d) % block == 0, levels, np.sqrt(a * a + a) - a)
        m = np.where(np.arange(d) < d // block * block, m, 0)
    else:
        m = {"equal": np.ones(d), "alone": np.eye(d)[5], "spread": np.random.default_rng(0).standard_normal(d)}[case]
    errors = np.sum((trials(name, m) - m) ** 2, axis=1)
    delta, omega = stage.contraction(spec(jnp.asarray(m))), stage.variance(spec(jnp.asarray(m)))
    worst = (omega if omega is not None else 1 - delta) * np.sum(m**2)
    assert errors.mean() >= worst * 0.95 - 6 * errors.std() / np.sqrt(TRIALS)


@pytest.mark.parametrize("stage", [message.top_k(0.15), message.threshold(0.4, at_most=0.15)])
def test_the_largest_are_those_of_a_sort(stage):
    encode = jax.jit(stage.encode)
    for seed, d in itertools.product(range(3), (1, 333)):
        m = np.random.default_rng(seed).integers(-9, 10, d).astype(float)
        sent = np.asarray(encode((), jnp.asarray(m), KEY)[2])
        order = np.argsort(-np.abs(m), kind="stable")[: int(np.ceil(0.15 * d))]
        expected = np.zeros(d)
        expected[order] = m[order]
        if isinstance(stage, message.Threshold):
            expected[np.abs(expected) < 0.4 * np.abs(m).max()] = 0
        np.testing.assert_array_equal(sent, expected)


@pytest.mark.parametrize("kind", ["normal", "few values", "one", "sorted", "zeros", "narrow"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_of_many_are_those_of_a_sort_whatever_the_sample_says(kind, dtype):
    from thalweg.message.compress.select import largest

    d, rng, found = 100_000, np.random.default_rng(0), jax.jit(largest, static_argnums=1)
    m = {
        "normal": rng.standard_normal(d),
        "few values": rng.integers(-2, 3, d),
        "one": np.eye(1, d, 77).ravel(),
        "sorted": np.arange(d),
        "zeros": np.zeros(d),
        "narrow": np.where(np.arange(d) % 3 == 0, rng.standard_normal(d), 0),  # the sample strides by 3
    }[kind].astype(dtype)
    for k in (1, 1000) if dtype == np.float32 else (50_000,):
        expected = np.sort(np.argsort(-np.abs(m), kind="stable")[:k])
        np.testing.assert_array_equal(found(jnp.asarray(m), k), expected)


def test_nothing_that_is_not_finite_is_hidden():
    m = jnp.asarray([1.0, jnp.nan, -2.0, 0.5])
    for name in ("top_k", "threshold", "sign", "block_top_k", "quantise", "qsgd"):
        assert not np.isfinite(np.asarray(jax.jit(STAGES[name].encode)((), m, KEY)[2])).all(), name


def test_what_one_threshold_counts():
    m = jnp.asarray([10.0, 4.0, -3.0, 2.9, 0.1, 0, 0, 0, 0, 0])
    wire = jax.jit(message.threshold(0.3, at_most=0.5).encode)((), m, KEY)[1]
    assert int(wire["packed"]["count"]) == 3


@pytest.mark.parametrize(("k", "d"), [(1, 1), (7, 7), (3, 1000), (100, 10_000), (300, 1000), (240, 1000)])
def test_positions_take_a_bit_more_than_their_entropy(k, d):
    from scipy.special import gammaln

    from thalweg.message.compress.positions import pack_positions, unpack_positions

    pack, unpack = jax.jit(pack_positions, static_argnums=1), jax.jit(unpack_positions, static_argnums=(1, 2))
    for seed in range(3):
        places = np.sort(np.random.default_rng(seed).choice(d, k, replace=False))
        packed = pack(jnp.asarray(places, jnp.int32), d)
        np.testing.assert_array_equal(unpack(packed, k, d), places)
    entropy = (gammaln(d + 1) - gammaln(k + 1) - gammaln(d - k + 1)) / np.log(2)
    assert entropy <= 8 * message.payload_bytes(packed) <= entropy + k + 7 + 31 + 1


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8, 9, 13, 20])
def test_bits_are_packed_as_by_hand(width):
    from thalweg.message.compress.bits import pack_bits, unpack_bits

    codes = np.random.default_rng(width).integers(0, 2**width, 37)
    packed = np.asarray(jax.jit(pack_bits, static_argnums=1)(jnp.asarray(codes), width))
    planes = 8 // np.gcd(8, width)
    rows = np.pad(codes, (0, -37 % planes)).reshape(planes, -1).T
    bits = [[code >> bit & 1 for code in row for bit in range(width)] for row in rows]
    by_hand = np.packbits(bits, axis=1, bitorder="little").T.ravel()
    np.testing.assert_array_equal(packed, by_hand)
    unpack = jax.jit(unpack_bits, static_argnums=(1, 2))
    np.testing.assert_array_equal(unpack(jnp.asarray(packed), width, 37), codes)


@pytest.mark.parametrize(("k", "d"), [(2, 5), (3, 16), (2, 9)])
def test_random_positions_are_different_and_all_pairs_as_likely(k, d):
    from scipy import stats

    from thalweg.message.compress.randomness import chosen, seed_of

    count = 20_000
    keys = jax.random.split(jax.random.key(3), count)
    found = np.asarray(jax.jit(jax.vmap(lambda key: chosen(seed_of(key), k, d)))(keys))
    assert ((found >= 0) & (found < d)).all()
    assert all(len(set(row)) == k for row in found.tolist())
    cells = np.bincount(found[:, 0] * d + found[:, 1], minlength=d * d).reshape(d, d)
    off = cells[~np.eye(d, dtype=bool)]
    assert stats.chisquare(off).pvalue > 1e-5


def test_hashed_numbers_look_uniform_and_neighbours_independent():
    from scipy import stats

    from thalweg.message.compress.randomness import uniform

    for seed in range(3):
        numbers = np.asarray(uniform(jnp.asarray([seed, 7 * seed], jnp.uint32), 200_000), float)
        assert stats.kstest(numbers, "uniform").pvalue > 1e-5
        for lag in (1, 2, 64):
            assert abs(np.corrcoef(numbers[lag:], numbers[:-lag])[0, 1]) < 6 / np.sqrt(len(numbers))


@pytest.mark.parametrize("inner", ["top_k", "random_k, unscaled", "sign", "quantise, 4 bits", "natural", "power_sgd", "rotate"])
def test_what_was_sent_and_what_is_remembered_is_what_should_have_been_sent(inner):
    """Σ sent + memory = Σ messages, whatever the stage."""
    stage, messages = message.error_feedback(STAGES[inner]), [sample(k) for k in range(6)]
    states, sents = rounds(stage, messages)
    floats = lambda tree: vector({"a": tree["a"], "b": tree["b"]})
    for k in range(6):
        sent, wanted = (sum(map(floats, part[: k + 1])) for part in (sents, messages))
        np.testing.assert_allclose(sent + floats(states[k]["memory"]), wanted, rtol=1e-5, atol=1e-4)
    assert np.linalg.norm(floats(states[-1]["memory"])) > 1e-3


def test_error_feedback_is_the_recursion_of_the_papers():
    """On a vector, with top-1 by NumPy."""
    messages = [np.random.default_rng(k).standard_normal(5) for k in range(8)]
    sents = rounds(message.error_feedback(message.top_k(0.2)), list(map(jnp.asarray, messages)))[1]
    memory = np.zeros(5)
    for m, sent in zip(messages, sents, strict=True):
        wanted = m + memory
        expected = np.where(np.arange(5) == np.argmax(np.abs(wanted)), wanted, 0)
        np.testing.assert_allclose(sent, expected, atol=1e-15)
        memory = wanted - expected


@pytest.mark.parametrize("inner", ["top_k", "sign", "quantise, 4 bits"])
def test_a_replica_of_a_message_that_stays_becomes_the_message(inner):
    """‖r − m‖² shrinks by 1 − δ in every round, of deterministic contractions."""
    stage, m = message.ef21(STAGES[inner]), jnp.asarray(np.random.default_rng(0).standard_normal(60))
    sents = rounds(stage, [m] * 40)[1]
    errors = [float(jnp.sum((sent - m) ** 2)) for sent in sents]
    delta = STAGES[inner].contraction(spec(m))
    for before, after in itertools.pairwise(errors):
        assert after <= (1 - delta) * before * (1 + 1e-6) + 1e-25 or inner.startswith("quantise")
    assert errors[-1] < (1 - delta) ** 20 * errors[0] + 1e-20


def test_low_rank_finds_the_best_approximation_of_a_matrix_that_stays():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, 8)))[0] for size in (20, 12))
    m = left * 0.5 ** np.arange(8) @ right.T
    _, sents = rounds(message.power_sgd(2), [jnp.asarray(m)] * 30)
    u, s, v = np.linalg.svd(m)
    np.testing.assert_allclose(sents[-1], u[:, :2] * s[:2] @ v[:2], atol=1e-6)
    errors = [np.linalg.norm(sent - m) for sent in sents]
    assert errors[0] <= np.linalg.norm(m)
    assert errors[0] > 1.01 * errors[-1]


def test_low_rank_cuts_leaves_where_two_factors_are_smallest():
    kernel = {"kernel": jnp.ones((3, 3, 8, 16)), "bias": jnp.ones(16), "thin": jnp.ones((50, 2))}
    wire = message.power_sgd(2).encode(message.power_sgd(2).init(spec(kernel)), kernel, jax.random.key(0))[1]
    assert message.payload_bytes(wire) == 8 * (2 * (72 + 16) + 16 + 100)


def test_a_rotation_keeps_lengths_and_spreads_a_single_entry():
    stage, m = message.rotate(message.identity(), block=64), np.eye(100)[3] * 5
    _, wire, sent = stage.encode((), jnp.asarray(m), jax.random.key(0))
    np.testing.assert_allclose(sent, m, atol=1e-14)
    np.testing.assert_allclose(np.abs(wire["rotated"][:64]), 5 / 8, rtol=1e-12)


def test_bytes_by_hand():
    """Of 1000 single-precision numbers."""
    m = jnp.asarray(np.random.default_rng(0).standard_normal(1000), jnp.float32)
    size = lambda stage: message.payload_bytes(
        jax.eval_shape(lambda m: stage.encode(stage.init(m), m, jax.random.key(0))[1], m)
    )
    assert size(message.top_k(0.01)) == 10 * 4 + 9 + 4  # 10 values; 6 bits below, four to three bytes; 10 + 999//64 bits above
    assert size(message.random_k(0.01)) == 10 * 4 + 8
    assert size(message.subsample(0.1)) == 100 * 4 + 8
    assert size(message.quantise(8, block=250)) == 1000 + 4 * 4
    assert size(message.quantise(4, block=250)) == 500 + 4 * 4
    assert size(message.qsgd(3)) == 375 + 4
    assert size(message.sign()) == 125 + 4
    assert size(message.natural()) == 1000 + 125
    assert size(message.block_top_k(0.02, block=50)) == 20 * 4 + 15
    assert size(message.chain(message.top_k(0.01), message.quantise(8))) == 10 + 4 + 9 + 4


def test_the_entropy_of_a_wire():
    rng = np.random.default_rng(0)
    codes = rng.choice([0, 1, 2, 3], 100_000, p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
    expected = -(0.7 * np.log2(0.7) + 0.3 * np.log2(0.1)) * 100_000
    np.testing.assert_allclose(message.entropy_bits({"codes": codes, "empty": np.zeros(0)}), expected, rtol=0.01)
    assert message.entropy_bits(np.zeros(50, np.float32)) == 0


REFUSED = {
    "fraction": (lambda: message.top_k(0.0), r"top_k: got 0.0, expected a number in \(0, 1\]"),
    "bits": (lambda: message.quantise(3), "quantise: got bits=3, expected 8, 4 or 2"),
    "levels": (lambda: message.qsgd(0), "qsgd: got levels=0"),
    "rank": (lambda: message.power_sgd(0), "power_sgd: got rank=0"),
    "block": (lambda: message.rotate(message.sign(), block=12), "rotate: got block=12, expected a power of two"),
    "packed": (lambda: message.chain(message.quantise(8), message.top_k(0.1)), "top_k: got a message that is packed already"),
    "after replica": (
        lambda: message.chain(message.ef21(message.sign()), message.cast("float16")),
        "Cast behind a stage whose",
    ),
    "nothing": (lambda: message.error_feedback(message.identity()), "Identity, which leaves nothing out"),
    "nothing, ef21": (lambda: message.ef21(message.identity()), "ef21: got Identity"),
    "twice": (lambda: message.error_feedback(message.ef21(message.sign())), "a stage that has a memory"),
    "memory, memory": (lambda: message.chain(*[message.error_feedback(message.top_k(0.5))] * 2), "another memory"),
    "moving": (lambda: message.chain(message.top_k(0.1), message.error_feedback(message.sign())), "put it around all of them"),
    "encoded": (
        lambda: message.chain(message.cast(), message.ef21(message.sign())),
        "ef21: got a message that an earlier stage",
    ),
    "turning": (lambda: message.rotate(message.error_feedback(message.sign())), r"error_feedback\(rotate\(…\)\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_unsound_is_refused_when_it_is_built(case):
    build, text = REFUSED[case]
    with pytest.raises(ValueError, match=text):
        build()


def test_a_memory_around_what_lengthens_messages_is_refused_when_sizes_are_known():
    with pytest.raises(ValueError, match=r"up to 19‖m‖² for this message.*scale=False"):
        message.error_feedback(message.random_k(0.05)).init(jax.ShapeDtypeStruct((100,), np.float64))


class Noisy(message.Stage):
    """A stage that adds noise for privacy."""

    def after(self, flow):
        return flow.but(noise=(*flow.noise, message.Mechanism("gaussian", 1.0, 1.0)))

    def init(self, spec):
        return ()

    def encode(self, state, message, key):
        return state, message, message

    def decode(self, wire, spec):
        return wire


def test_memory_around_noise_is_refused_and_noise_before_it_is_not():
    with pytest.raises(ValueError, match="adds noise"):
        message.error_feedback(message.chain(Noisy(), message.top_k(0.1)))
    kept = message.chain(Noisy(), message.error_feedback(message.top_k(0.1))).after(message.Flow())
    assert kept.memory and len(kept.noise) == 1
