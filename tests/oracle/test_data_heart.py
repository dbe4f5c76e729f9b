"""The four hospitals and the AUC."""

import csv
from importlib import resources

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.data import auc, heart_disease


def test_auc_by_counting_pairs():
    generator = np.random.default_rng(0)
    for _ in range(20):
        labels = generator.integers(0, 2, 15)
        labels[:2] = 0, 1
        scores = generator.integers(0, 5, 15) / 4
        positive, negative = scores[labels == 1, None], scores[None, labels == 0]
        assert auc(scores, labels) == pytest.approx(np.mean((positive > negative) + 0.5 * (positive == negative)), abs=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_symmetries(pairs):
    scores, labels = np.array([s for s, _ in pairs], float), np.array([y for _, y in pairs], int)
    if len(set(labels)) < 2:
        assert np.isnan(auc(scores, labels))
        return
    assert auc(scores, labels) == pytest.approx(1 - auc(-scores, labels))
    assert auc(np.exp(scores), labels) == pytest.approx(auc(scores, labels))
    assert auc(np.zeros_like(scores), labels) == 0.5


@pytest.mark.parametrize("bad", [([1, 2], [0, 1, 1]), ([np.nan, 1], [0, 1]), ([1, 2], [0, 2])])
def test_auc_bad_input(bad):
    with pytest.raises(ValueError, match="auc: got"):
        auc(*bad)


def records():
    with resources.files("thalweg.data").joinpath("heart.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_counts_are_those_of_the_repository():
    """Counts and numbers of positives of the UCI description (heart-disease.names)."""
    rows = records()
    counts = {
        name: [int(r["num"]) for r in rows if r["hospital"] == name] for name in ("cleveland", "hungary", "switzerland", "va")
    }
    assert [len(v) for v in counts.values()] == [303, 294, 123, 200]
    assert [sum(n > 0 for n in v) for v in counts.values()] == [139, 106, 115, 149]
    assert next(r for r in rows if r["id"] == "304")["hospital"] == "hungary"


def test_split():
    data = heart_disease()
    assert data.names == ("cleveland", "hungary", "switzerland", "va")
    totals = [len(a[1]) + len(b[1]) for a, b in zip(data.train, data.test, strict=True)]
    assert totals == [303, 294, 123, 200]
    for (X, y), (Z, t) in zip(data.train, data.test, strict=True):
        assert X.shape[1] == Z.shape[1] == data.d == len(data.features)
        assert np.isfinite(X).all()
        assert np.isfinite(Z).all()
        assert set(np.unique(y)) == set(np.unique(t)) == {0.0, 1.0}
        assert abs(len(t) / (len(t) + len(y)) - 0.3) < 0.01
    X, y = data.pooled()
    assert len(X) == len(y) == sum(len(part[1]) for part in data.train)
    assert "4 agents" in repr(data)


def test_split_repeats_and_differs_with_the_seed():
    np.testing.assert_array_equal(heart_disease(seed=1).train[0][0], heart_disease(seed=1).train[0][0])
    assert not np.array_equal(heart_disease(seed=1).train[0][0], heart_disease(seed=2).train[0][0])
    assert [len(y) for _, y in heart_disease(test=0).test] == [0, 0, 0, 0]
    assert heart_disease(dtype=np.float32).train[0][0].dtype == np.float32


def test_imputation_uses_the_hospital_alone():
    """Training features of one hospital do not change with the others, and the Swiss cholesterol is the reference."""
    data = heart_disease()
    column = data.features.index("chol")
    np.testing.assert_array_equal(data.train[2][0][:, column], 0)
    va = data.train[3][0][:, column]
    values, counts = np.unique(va, return_counts=True)
    # Some 28 % of the VA records lack cholesterol; their filling is the median of those that have it.
    filled = values[np.argmax(counts)]
    assert counts.max() > 20
    raw = [float(r["chol"] or 0) for r in records() if r["hospital"] == "va"]
    assert abs(50 * filled + 240 - np.median([c for c in raw if c > 0])) < 10


def logistic_fit(X, y, strength=1e-2):
    F = np.c_[X, np.ones(len(X))]

    def objective(z):
        margin = F @ z
        error = 1 / (1 + np.exp(-margin)) - y
        shrunk = strength * np.r_[z[:-1], 0]
        return np.mean(np.logaddexp(0, margin) - y * margin) + 0.5 * shrunk @ z, F.T @ error / len(y) + shrunk

    return scipy.optimize.minimize(objective, np.zeros(F.shape[1]), jac=True, method="L-BFGS-B").x


def test_federation_pays_where_a_hospital_is_weak():
    """Mean test AUC over 10 splits, alone and pooled: as in shared notes, Cleveland and Hungary hardly change, Switzerland
    and VA gain."""
    table = []
    for seed in range(10):
        data = heart_disease(seed=seed)
        pooled = logistic_fit(*data.pooled())
        for train, (Z, t) in zip(data.train, data.test, strict=True):
            alone = logistic_fit(*train)
            table.append([auc(Z @ z[:-1] + z[-1], t) for z in (alone, pooled)])
    alone, pooled = np.reshape(table, (10, 4, 2)).mean(axis=0).T
    assert (pooled[:2] > 0.87).all()
    assert np.abs(pooled[:2] - alone[:2]).max() < 0.02
    assert (alone[2:] < 0.75).all()
    assert pooled[3] > alone[3] + 0.03


def test_bad_share():
    with pytest.raises(ValueError, match="heart_disease test: got 1"):
        heart_disease(test=1)
    with pytest.raises(ValueError, match="pooled: got 'all'"):
        heart_disease().pooled("all")
