"""`partition`, the strategies' fixed points, the summary and the picture of a partition; and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
import thalweg.data as td

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(200, 3)), RNG.integers(0, 4, 200)


def test_partition_is_ready_for_empirical_risk():
    data = td.partition(X, Y.astype(float), clients=5, by=td.dirichlet(0.5), seed=3)
    model = tw.losses.linear_model(tw.losses.squared)
    problem = tw.EmpiricalRisk(model, data, model.start(data.d))
    same = tw.EmpiricalRisk(model, data.train, model.start(data.d), names=data.names)
    assert problem.names == same.names == tuple(f"client {i}" for i in range(5))
    np.testing.assert_array_equal(problem.counts, data.sizes)
    pooled = np.linalg.lstsq(np.c_[X, np.ones(200)], Y, rcond=None)[0]
    found = tw.reference(problem).x
    np.testing.assert_allclose(np.r_[found["weights"], found["bias"]], pooled, atol=1e-9)
    assert tw.EmpiricalRisk(model, data, model.start(3), names=list("abcde")).names == tuple("abcde")


def test_examples_stay_with_their_labels():
    tagged = np.arange(200.0)[:, None]
    data = td.partition(tagged, np.arange(200) % 4, 7, td.shards(2), test=0.25, seed=1)
    seen = [np.concatenate([a[0], b[0]]).ravel() for a, b in zip(data.train, data.test, strict=True)]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(200))
    for x, y in [*data.train, *data.test]:
        np.testing.assert_array_equal(x.ravel() % 4, y)
    for (_, a), (_, b) in zip(data.train, data.test, strict=True):
        assert len(b) == round(0.25 * (len(a) + len(b)))


def test_a_client_keeps_something_to_train_on():
    data = td.partition(X, Y, 200, test=0.9)
    assert data.sizes.tolist() == [1] * 200
    assert "train 1 to 1, test 0 to 0 each" in repr(data)


def test_shapes_names_and_other_labels():
    images = RNG.normal(size=(30, 2, 2))
    target, kind = RNG.normal(size=(30, 2)), np.repeat(["b", "a", "c"], 10)
    data = td.partition(images, target, by=td.natural(kind), labels=kind, features=list("wxyz"))
    assert (data.names, data.n, data.d) == (("a", "b", "c"), 3, 4)
    assert data.train[0][0].shape == (10, 2, 2)
    np.testing.assert_array_equal(data.train[0][1], target[10:20])
    assert td.partition(images, target, 2).features == ("0,0", "0,1", "1,0", "1,1")
    by_kind = td.partition(images, target, 3, td.pathological(1), labels=kind)
    assert sorted(x[0, 0, 0] for x, _ in by_kind.train) == sorted(images[[0, 10, 20], 0, 0])


def test_own_strategy_is_a_function():
    data = td.partition(X, Y, 2, lambda labels, clients, seed: [np.arange(50), np.arange(50, 200)])
    assert data.sizes.tolist() == [50, 150]


def test_shards_are_those_of_mcmahan():
    """Borders of shards and classes coincide: 20 clients, 10 classes × 40, shards of 10; at most two classes for each."""
    labels = np.repeat(np.arange(10), 40)
    parts = td.shards(2)(labels, 20, 0)
    assert {len(part) for part in parts} == {20}
    counts = np.stack([np.bincount(labels[part], minlength=10) for part in parts])
    assert set(np.unique(counts)) == {0, 10, 20}


def test_sizes_follow_the_law():
    sizes = [10, 20, 30, 140]
    assert [len(part) for part in td.by_size(sizes)(Y, 4)] == sizes
    assert [len(part) for part in td.by_size([0, 0, 1, 3], minimum=5)(Y, 4)] == [5, 5, 50, 140]
    power = np.sort([len(part) for part in td.by_size(td.power_law(1.0))(np.zeros(11_000), 3)])[::-1]
    np.testing.assert_array_equal(power, [6000, 3000, 2000])
    log = np.log([len(part) for part in td.by_size(td.lognormal(0.5))(np.zeros(400_000), 2000)])
    assert np.std(log) == pytest.approx(0.5, rel=0.05)
    assert {len(part) for part in td.by_size(td.lognormal(0))(Y, 4)} == {50}
    twice = td.by_size(lambda generator, clients: np.arange(clients) + 1.0)
    assert [len(part) for part in twice(np.zeros(60), 3)] == [10, 20, 30]


def test_vertical():
    blocks = td.vertical(X, [2, 1])
    np.testing.assert_array_equal(np.hstack(blocks), X)
    assert [b.shape for b in td.vertical(X, 2)] == [(200, 1), (200, 2)]
    places = np.concatenate(td.vertical(np.arange(3)[None], [1, 2], seed=4), axis=1)[0]
    np.testing.assert_array_equal(np.hstack(td.vertical(X, [1, 2], seed=4)), X[:, places])
    assert sorted(places) == [0, 1, 2]


def test_summary_by_hand():
    """Labels 0001 and 01: pooled 4/6, 2/6; distances |3/4 − 4/6| = 1/12 and |1/2 − 4/6| = 1/6."""
    data = td.partition(np.zeros((6, 2)), [0, 0, 0, 1, 0, 1], by=td.natural([0, 0, 0, 0, 1, 1]))
    classes, counts = data.label_counts()
    assert (classes.tolist(), counts.tolist()) == ([0, 1], [[3, 1], [1, 1]])
    np.testing.assert_allclose(data.label_distances(), [1 / 12, 1 / 6])
    text = data.summary()
    assert "6; per agent 2 to 4, median 3" in text
    assert "mean 0.125, largest 0.167" in text
    assert "central" not in text
    assert repr(data) == "FederatedData(2 agents, 2 features; train+test: 0 4+0, 1 2+0)"


def test_targets_that_are_no_classes():
    data = td.partition(X, RNG.normal(size=200), 4)
    assert "classes" not in data.summary()
    with pytest.raises(ValueError, match=r"label_counts: got labels of float64.*use sizes"):
        data.label_counts()


def test_strings_are_classes_and_texts_count_every_character():
    assert td.partition(X, np.where(Y > 1, "high", "low"), 3).label_counts()[0].tolist() == ["high", "low"]
    assert td.partition(X, np.tile(Y[:, None], 5), 3).label_counts()[1].sum() == 1000


@pytest.mark.parametrize("clients", [4, 90])
def test_the_picture_shows_the_counts(clients, tmp_path):
    pytest.importorskip("matplotlib")
    data = td.partition(X, Y, clients, td.dirichlet(0.5, minimum=1))
    figure = td.plot_partition(data, tmp_path / "partition.png")
    assert (tmp_path / "partition.png").stat().st_size > 5000
    above, below = figure.axes[:2]
    counts = data.label_counts()[1]
    heights = [bar.get_height() for bar in above.patches]
    if clients <= 60:
        assert heights == data.sizes.tolist()
        (dots,) = below.collections
        drawn = np.zeros_like(counts)
        for (i, k), area in zip(dots.get_offsets(), dots.get_sizes() / dots.get_sizes().max(), strict=True):
            drawn[int(i), int(k)] = round(area * counts.max())
        np.testing.assert_array_equal(drawn, counts)
    else:
        assert sorted(heights) == sorted(data.sizes.tolist())
        image = below.images[0].get_array()
        np.testing.assert_array_equal(image.sum(axis=0), heights)
        np.testing.assert_array_equal(image.sum(axis=1), counts.sum(axis=0))
    assert [text.get_text() for text in below.get_yticklabels()] == ["0", "1", "2", "3"]


ZEROS = np.zeros(200)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: td.dirichlet(0), r"dirichlet alpha: got 0, expected a number in \(0, 1e12\]"),
        (lambda: td.dirichlet(-1.0), "dirichlet alpha: got -1"),
        (lambda: td.dirichlet(np.nan), "dirichlet alpha: got nan"),
        (lambda: td.dirichlet(np.inf), r"dirichlet alpha: got inf.*iid\(\)"),
        (lambda: td.dirichlet(1, minimum=0), "dirichlet minimum: got 0, expected an integer ≥ 1"),
        (
            lambda: td.dirichlet(1)(Y, 50),
            r"200 examples for 50 clients with at least 10 each, expected 500.*at most 20 clients",
        ),
        (lambda: td.dirichlet(1)(X, 5), r"labels: got shape \(200, 3\), expected \[m\]"),
        (lambda: td.dirichlet(1)(X[:, 0], 5), "labels: got floats that are not whole numbers"),
        (lambda: td.dirichlet(1)(np.full(200, np.nan), 5), r"labels: got floats .*NaN"),
        (lambda: td.pathological(0), "pathological classes: got 0"),
        (lambda: td.pathological(5)(Y, 4), "4 clients with 5 classes each, and 4 classes in the labels"),
        (lambda: td.pathological(1)(Y, 3), "places for all of them"),
        (lambda: td.pathological(1)([0, 0, 0, 0, 0, 1], 6), "got 1 examples of class 1 for 3 clients"),
        (lambda: td.shards(1.5), "shards per_client: got 1.5"),
        (lambda: td.shards(3)(Y, 100), "200 examples for 100 clients with at least 3 each"),
        (lambda: td.by_size([1, 2])(Y, 3), r"by_size law: got \(2,\), expected 3 finite numbers"),
        (lambda: td.by_size([1, -1])(Y, 2), "by_size law: got"),
        (lambda: td.by_size(td.lognormal(), minimum=101)(Y, 2), "by_size: got 200 examples for 2 clients"),
        (lambda: td.lognormal(-1), "lognormal sigma: got -1"),
        (lambda: td.power_law(np.nan), "power_law exponent: got nan"),
        (lambda: td.natural([1.0, np.nan]), "natural ids: got NaN for 1 examples"),
        (lambda: td.natural(X), r"natural ids: got shape \(200, 3\)"),
        (lambda: td.natural([1, 2])(Y), "natural ids: got 2 for 200 examples"),
        (lambda: td.natural(Y)(Y, 7), "clients: got 7 with 4 different ids"),
        (lambda: td.iid()(Y, 201), "clients: got 201 for 200 examples, expected at most 200"),
        (lambda: td.iid()(Y), "clients: got None, expected an integer ≥ 1"),
        (lambda: td.iid()(Y, 0), "clients: got 0"),
        (lambda: td.iid()([], 1), r"labels: got shape \(0,\)"),
        (lambda: td.partition(X, Y[:-1], 3), r"partition: got x \(200, 3\) and y \(199,\)"),
        (lambda: td.partition(X, Y, 3, test=1.0), "partition test: got 1.0"),
        (lambda: td.partition(X, Y, 3, labels=[1]), r"partition labels: got shape \(1,\), expected \[200\]"),
        (lambda: td.partition(X, Y, 3, classes=3), r"partition labels: got \[3\] among \d+ labels outside the classes"),
        (lambda: td.partition(X, Y - 1, 3, classes=4), r"got \[-1\] among .*number the classes from 0"),
        (lambda: td.partition(X, Y, 3, features=["a"]), "partition features: got 1 names, expected 3"),
        (lambda: td.partition(X, Y, 2, lambda *_: [np.arange(200), []]), "client 1 would get no example"),
        (lambda: td.partition(X, Y, 2, lambda *_: [np.arange(200)]), "got 1 parts, expected 2"),
        (lambda: td.partition(X, Y, 2, lambda *_: [np.arange(200), [7]]), "example 7 in 2 places"),
        (lambda: td.partition(X, Y, 2, lambda *_: [np.arange(100), np.arange(101, 200)]), "example 100 in 0 places"),
        (lambda: td.partition(X, Y, 2, lambda *_: [np.arange(100), np.arange(101, 201)]), "integers from 0 to 199"),
        (lambda: td.vertical(X, [2, 2]), r"vertical sizes: got \[2, 2\] with sum 4, expected .* sum 3"),
        (lambda: td.vertical(X, [3, 0]), "vertical sizes"),
        (lambda: td.vertical(X, 4), "vertical sizes"),
        (lambda: td.vertical(X, 0), "vertical sizes: got 0, expected an integer ≥ 1"),
        (lambda: td.vertical(Y, 2), r"vertical: got x \(200,\)"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_mixed_types_are_promoted_when_padded():
    """An agent of integers beside one of floats loses nothing."""
    agents = [(np.array([[1], [2]]), np.array([0.0, 1.0])), (np.array([[0.5]]), np.array([1.0]))]
    problem = tw.EmpiricalRisk(lambda x, e: (x * e[0][0] - e[1]) ** 2, agents, jnp.zeros(()))
    np.testing.assert_array_equal(problem.pieces.data[0][..., 0], [[1, 2], [0.5, 0.5]])
