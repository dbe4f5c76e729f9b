"""Adversaries send what they say, and what robust rules withstand is told from what they do not, in runs of servers and peers.

Axes: `n` agents, `d` variables.
"""

import jax
import numpy as np
import pytest
from scipy.stats import norm

import servers
import support
import thalweg as tw
from thalweg import adversary, message

N, D, BAD = 10, 4, (2, 7)
HONEST = np.delete(np.arange(N), BAD)
BUILDERS = {
    "constant": lambda: adversary.constant(BAD, 1e6),
    "inner_product": lambda: adversary.inner_product(BAD, 8.0),
    "little_is_enough": lambda: adversary.little_is_enough(BAD),
    "mimic": lambda: adversary.mimic(BAD),
    "noise": lambda: adversary.noise(BAD, 100.0),
    "sign_flip": lambda: adversary.sign_flip(BAD, 8.0),
    "stale": lambda: adversary.stale(BAD, 3),
    "zero": lambda: adversary.zero(BAD),
}
DATA = {"backdoor", "flip_labels"}


def test_every_exported_adversary_is_tested():
    assert {name for name in adversary.__all__ if name.islower()} == set(BUILDERS) | DATA


def sent(liar, x, rounds=1, present=None):
    """What is sent in the last of so many rounds, of messages `x [rounds, n, d]`."""
    n = x.shape[1]
    bad, places = np.isin(np.arange(n), liar.agents), np.arange(n, dtype=np.int32)
    present = np.ones(n, bool) if present is None else present
    memory, lies = liar.init(n, x.shape[2], x.dtype), None
    for k in range(rounds):
        key = jax.random.key(k)
        memory, lies = liar.forge(memory, x[k], bad & present, present, places, key, np.int32(k))
    return np.asarray(lies)[list(liar.agents)]


def test_lies_are_as_defined():
    x = 2 + np.random.default_rng(0).standard_normal((8, N, D))
    h = x[0][HONEST]
    same = lambda row: np.tile(row, (2, 1))
    np.testing.assert_allclose(sent(adversary.sign_flip(BAD, 3.0), x), -3 * x[0][list(BAD)])
    np.testing.assert_allclose(sent(adversary.inner_product(BAD, 0.5), x), same(-0.5 * h.mean(0)))
    np.testing.assert_array_equal(sent(adversary.constant(BAD, np.inf), x), same(np.full(D, np.inf)))
    np.testing.assert_array_equal(sent(adversary.zero(BAD), x), same(np.zeros(D)))
    farthest = np.argmax(((h - h.mean(0)) ** 2).sum(1))
    np.testing.assert_array_equal(sent(adversary.mimic(BAD), x), same(h[farthest]))
    np.testing.assert_array_equal(sent(adversary.mimic(BAD, 5), x), same(h[5]))
    # n = 10, f = 2: s = 10//2 + 1 − 2 = 4 of the 8 honest lie beyond.
    np.testing.assert_allclose(
        sent(adversary.little_is_enough(BAD), x), same(h.mean(0) - norm.ppf(4 / 8) * h.std(0)), atol=1e-12
    )
    np.testing.assert_allclose(sent(adversary.little_is_enough(BAD, 1.5), x), same(h.mean(0) - 1.5 * h.std(0)))
    most = adversary.little_is_enough((0, 1, 2, 3))  # s = 2 of 6
    expected = x[0][4:].mean(0) - norm.ppf(4 / 6) * x[0][4:].std(0)
    np.testing.assert_allclose(sent(most, x), np.tile(expected, (4, 1)), rtol=1e-6)
    noise = sent(adversary.noise(BAD, 3.0), np.zeros((1, N, 20_000)))
    assert abs(noise.std() - 3) < 5 * 3 / np.sqrt(2 * noise.size)
    assert abs(np.corrcoef(noise)[0, 1]) < 5 / np.sqrt(20_000)


def test_who_is_absent_does_not_enter_a_lie():
    x = np.random.default_rng(0).standard_normal((1, N, D))
    present = np.arange(N) != 0
    np.testing.assert_allclose(sent(adversary.inner_product(BAD, 1.0), x, present=present)[0], -x[0][HONEST[1:]].mean(0))


@pytest.mark.parametrize(("rounds", "expected"), [(1, 0), (3, 0), (4, 0), (5, 1), (8, 4)])
def test_stale_messages_are_of_so_many_messages_ago(rounds, expected):
    x = np.random.default_rng(0).standard_normal((8, N, D))
    np.testing.assert_array_equal(sent(adversary.stale(BAD, 3), x, rounds), x[expected][list(BAD)])


def test_flipped_labels_and_backdoors():
    rng = np.random.default_rng(0)
    labels, images = rng.integers(0, 10, (4, 6)), rng.uniform(size=(4, 6, 3))
    flipped = adversary.flip_labels(labels, (1, 3), 10)
    np.testing.assert_array_equal(flipped[[1, 3]], 9 - labels[[1, 3]])
    np.testing.assert_array_equal(flipped[[0, 2]], labels[[0, 2]])
    ragged = [labels[0], labels[1][:2]]
    np.testing.assert_array_equal(adversary.flip_labels(ragged, [1], 10)[1], 9 - labels[1][:2])

    def bright(x):
        x = x.copy()
        x[:, 0] = 7
        return x

    found, told = adversary.backdoor(images, labels, (2,), bright, 5, 0.4, seed=1)
    marked = found[2, :, 0] == 7
    assert marked.sum() == 3
    assert (told[2, marked] == 5).all()
    np.testing.assert_array_equal(told[2, ~marked], labels[2, ~marked])
    np.testing.assert_array_equal(found[2][:, 1:], images[2][:, 1:])
    np.testing.assert_array_equal(found[[0, 1, 3]], images[[0, 1, 3]])
    assert images.max() < 1, "what was given is left alone"
    with pytest.raises(ValueError, match="share"):
        adversary.backdoor(images, labels, (2,), bright, 5, 0.0, seed=1)


# A server: heterogeneous quadratics, f = 2 of 10, and how far the answer ends from that of the honest.

PROBLEM, A, B, W, _ = servers.clients(N, D, seed=4, weights=None)
BEST = servers.optimum(A[HONEST], B[HONEST], np.full(len(HONEST), 1 / len(HONEST)))
METHOD = tw.FedAvg(tw.LocalSGD(0.05, steps=2))
RULES = {
    "trimmed_mean": lambda: message.trimmed_mean(2),
    "geometric_median": message.geometric_median,
    "NNM, median": lambda: message.nearest_neighbour_mixing(2, message.coordinate_median()),
    "multi_krum": lambda: message.multi_krum(2),
}
LETHAL = {
    "constant": adversary.constant(BAD, 1e6),
    "nan": adversary.constant(BAD, np.nan),
    "sign_flip": adversary.sign_flip(BAD, 8.0),
    "inner_product": adversary.inner_product(BAD, 8.0),
    "noise": adversary.noise(BAD, 1e3),
}


def answer(rule, liar, **options):
    return servers.run(PROBLEM, METHOD, 150, aggregate=rule, adversary=liar, **options)


def spread():
    """ζ/μ: how far one client's own gradient can pull the answer."""
    pull = np.einsum("nij,j->ni", A[HONEST], BEST) + B[HONEST]
    return np.sqrt((pull**2).sum(1).mean()) / np.linalg.eigvalsh(A[HONEST].mean(0)).min()


@pytest.mark.slow
@pytest.mark.parametrize("attack", [pytest.param(a, marks=() if a == "nan" else pytest.mark.slow) for a in LETHAL])
def test_a_robust_server_stays_where_a_mean_is_destroyed(attack):
    """Theory: the error is at most √κ·ζ/μ and what local steps add; the mean ends beyond, or at no number at all."""
    if attack != "noise":
        plain = answer(None, LETHAL[attack])
        away = np.linalg.norm(np.asarray(plain.x) - BEST)
        assert not plain.outcome.value.startswith("round limit") or not away < 3 * spread()
    for rule in ("trimmed_mean", "NNM, median"):
        made = RULES[rule]()
        bound = np.sqrt(made.kappa(N, 2)) * spread()
        away = np.linalg.norm(np.asarray(answer(made, LETHAL[attack]).x) - BEST)
        assert away < min(bound, spread()), rule


@pytest.mark.slow
@pytest.mark.parametrize("attack", sorted(set(BUILDERS) - set(LETHAL)))
@pytest.mark.parametrize("rule", RULES)
def test_quiet_attacks_move_a_robust_server_no_farther_than_clients_differ(attack, rule):
    assert np.linalg.norm(np.asarray(answer(RULES[rule](), BUILDERS[attack]()).x) - BEST) < spread()


def test_what_a_server_reports_is_of_the_honest():
    rule, liar = message.trimmed_mean(2), adversary.sign_flip(BAD)
    result = answer(rule, liar, reference=BEST, every=50)
    losses = np.einsum("i,nij,j->n", result.x, A, result.x) / 2 + B @ result.x
    np.testing.assert_allclose(result.history["objective"][-1], losses[HONEST].mean())
    gradient = (np.einsum("nij,j->ni", A, result.x) + B)[HONEST].mean(0)
    np.testing.assert_allclose(result.history["optimality"][-1], np.linalg.norm(gradient), rtol=1e-6)
    shown = result.history.agents["loss"][-1]
    np.testing.assert_allclose(shown[HONEST], losses[HONEST])
    assert np.isnan(shown[list(BAD)]).all()
    text = str(result)
    assert "8 of 10 who are honest" in text
    assert f"client {HONEST[losses[HONEST].argmax()]}" in text
    assert "TrimmedMean" in text


def bits(result):
    """Of what runs compute; measures at one shared point are products of matrices, which engines may round as they like."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((result.x, result.records))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "liar"),
    [
        (message.nearest_neighbour_mixing(0.2, message.geometric_median()), adversary.stale(BAD, 2)),
        pytest.param(message.bucketing(message.centred_clipping(1.0), 2), adversary.noise(BAD), marks=pytest.mark.slow),
        pytest.param(message.covariance_filter(2), adversary.little_is_enough(BAD), marks=pytest.mark.slow),
    ],
)
def test_a_server_gives_the_same_bits_on_engines_and_when_resumed(rule, liar, tmp_path):
    go = lambda rounds=7, **options: servers.run(
        PROBLEM, tw.FedAvg(tw.LocalSGD(0.05, steps=2), cohort=8), rounds, every=3, aggregate=rule, adversary=liar, **options
    )
    whole = bits(go(deterministic=True))
    assert whole == bits(go(engine="debug"))
    go(4, deterministic=True, checkpoint=tmp_path)
    assert whole == bits(go(deterministic=True, checkpoint=tmp_path, resume=True))


def test_another_number_of_liars_compiles_nothing():
    from programs import no_compilation

    answer(message.trimmed_mean(0.2), adversary.sign_flip(BAD, 2.0))
    with no_compilation():
        answer(message.trimmed_mean(0.1), adversary.sign_flip(BAD, 3.0))


def test_weights_that_do_not_count_are_said():
    problem = servers.clients(5, 3)[0]
    with pytest.warns(RuntimeWarning, match="counts every client once"):
        tw.solve(problem, METHOD, rounds=1, aggregate=message.coordinate_median())
    tw.solve(problem, METHOD, rounds=1, aggregate=message.norm_bound(1.0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"aggregate": message.krum(4)}, "got 10 clients"),
        ({"aggregate": message.trimmed_mean(2), "cohort": 4}, "got 4 clients"),
        ({"aggregate": message.trimmed_mean(1), "engine": tw.EventDriven(buffer=2)}, "got 2 clients"),
        ({"adversary": adversary.zero(range(N))}, "everybody"),
        ({"adversary": adversary.zero((N,))}, "positions"),
    ],
)
def test_what_cannot_be_is_refused(options, expected):
    method = tw.FedAvg(tw.LocalSGD(0.05), cohort=options.pop("cohort", None))
    with pytest.raises(ValueError, match=expected):
        tw.solve(PROBLEM, method, rounds=1, **options)


# Peers on a graph in which everybody has four neighbours, one of them lying at most.

PEERS = 10
LIARS = (0, 5)
GRAPH = tw.network.from_edges(np.array([[i, (i + j) % PEERS] for i in range(PEERS) for j in (1, 2)]), PEERS)
OTHERS = np.delete(np.arange(PEERS), LIARS)
QUADRATIC, CURVATURE, SLOPE, _ = support.quadratics(PEERS, 3, 0)
CENTRE = np.linalg.solve(CURVATURE[OTHERS].mean(0), -SLOPE[OTHERS].mean(0))
MIXERS = {
    "clipped_gossip": message.clipped_gossip(0.02),
    "adaptive": message.clipped_gossip(share=0.25),
    "neighbour_trimmed_mean": message.neighbour_trimmed_mean(1),
    "neighbour_median": message.neighbour_median(),
    "nearest_neighbours": message.nearest_neighbours(1),
}


def peers(mixer, liar, rounds=400, **options):
    return tw.solve(
        QUADRATIC,
        tw.DGD(step_size=0.02),
        GRAPH,
        **({"rounds": rounds, "every": rounds} | options),
        aggregate=mixer,
        adversary=liar,
    )


@pytest.mark.parametrize("name", MIXERS)
def test_robust_peers_stay_together_where_mixing_is_destroyed(name):
    """Honest agents end nearer to each other and to their optimum than their own optima lie apart."""
    own = np.linalg.solve(CURVATURE[OTHERS], -SLOPE[OTHERS][..., None])[..., 0]
    apart = np.sqrt(((own - CENTRE) ** 2).sum(1).mean())
    for liar in (adversary.constant(LIARS, 1e3), adversary.constant(LIARS, np.nan)):
        result = peers(MIXERS[name], liar)
        agents = np.asarray(result.agents)[OTHERS]
        assert np.linalg.norm(agents.mean(0) - CENTRE) < apart
        assert np.sqrt(((agents - agents.mean(0)) ** 2).sum(1).mean()) < apart
    plain = peers(None, adversary.constant(LIARS, 1e3))
    assert not np.linalg.norm(np.asarray(plain.x) - CENTRE) < 10 * apart


def test_what_peers_report_is_of_the_honest():
    result = peers(MIXERS["neighbour_trimmed_mean"], adversary.sign_flip(LIARS, 5.0), reference=CENTRE)
    agents = np.asarray(result.agents)[OTHERS]
    mean = agents.mean(0)
    np.testing.assert_allclose(result.x, mean)
    value = np.einsum("i,nij,j->n", mean, CURVATURE, mean) / 2 + SLOPE @ mean
    last = {name: column[-1] for name, column in result.history.scalars.items()}
    np.testing.assert_allclose(last["objective"], value[OTHERS].mean())
    np.testing.assert_allclose(last["consensus_error"], np.sqrt(((agents - mean) ** 2).sum(1).mean()))
    np.testing.assert_allclose(last["error"], np.sqrt(((agents - CENTRE) ** 2).sum(1).mean()))
    gradient = (np.einsum("nij,j->ni", CURVATURE, mean) + SLOPE)[OTHERS].mean(0)
    np.testing.assert_allclose(last["optimality"], np.linalg.norm(gradient))
    assert np.isnan(result.history.agents["disagreement"][-1][list(LIARS)]).all()
    assert "8 of 10 who are honest" in str(result)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixer", "liar"),
    [
        (MIXERS["adaptive"], adversary.stale(LIARS, 2)),
        pytest.param(MIXERS["neighbour_trimmed_mean"], adversary.noise(LIARS), marks=pytest.mark.slow),
    ],
)
def test_peers_give_the_same_bits_on_engines_and_when_resumed(mixer, liar, tmp_path):
    go = lambda rounds=7, **options: peers(mixer, liar, rounds, every=3, **options)
    whole = bits(go(deterministic=True))
    assert whole == bits(go(engine="debug"))
    assert whole == bits(go(engine=tw.Sharded(devices=2, deterministic=True)))
    go(4, deterministic=True, checkpoint=tmp_path)
    assert whole == bits(go(deterministic=True, checkpoint=tmp_path, resume=True))


def test_peers_with_too_few_neighbours_are_refused():
    with pytest.raises(ValueError, match="got 4 neighbours"):
        peers(message.neighbour_trimmed_mean(2), None)
