"""What `compare` says of histories made by hand, whose answers are counted by hand."""

import dataclasses

import numpy as np
import pytest

import thalweg as tw
from handmade import ALONE, Averaging
from thalweg.observe import History, Ledger, Outcome, Result
from thalweg.observe.comparison import spread
from thalweg.observe.curves import band
from thalweg.observe.text import number


@dataclasses.dataclass(frozen=True)
class Other:
    """Another algorithm."""

    rate: float = 1.0


def made(accuracy, seed=0, algorithm=None, gap=None, clock=None, **config):
    """A run with these values at rounds 2, 4, …, ten bytes a round, a second for two rounds."""
    k = 2 * np.arange(1, len(accuracy) + 1)
    scalars = {"round": k, "objective": 1.0 / k, "accuracy": np.asarray(accuracy, float), "bytes": 10 * k}
    scalars |= {"accuracy_lowest": np.asarray(accuracy, float) - 0.1, "accuracy_spread": np.full(len(k), 0.05)}
    scalars |= {} if gap is None else {"gap": np.asarray(gap, float)}
    scalars |= {} if clock is None else {"clock": np.asarray(clock, float)}
    said = {"fingerprint": "f" * 64, "evaluate": {"accuracy": "right on one pool, 12"}, "seed": seed, "network": "one server"}
    return Result(
        x=0.0, agents=None, outcome=Outcome.ROUND_LIMIT, reason="all done", rounds=int(k[-1]), history=History(scalars, {}),
        ledger=Ledger(np.array([1]), 8, 16, 0, float(k[-1]) / 2, 0.2), algorithm=algorithm or Averaging(), names=("a",),
        graph=ALONE, config=said | config,
    )  # fmt: skip


FAST = [0.2, 0.5, 0.8, 0.7, 0.9]
SLOW = [0.2, 0.3, np.nan, 0.8, 0.8]
NEVER = [0.1, 0.1, 0.2, 0.2, 0.2]


def test_costs_are_those_of_the_first_record_that_meets_the_target():
    found = tw.compare({"A": [made(FAST, 0), made(SLOW, 1), made(NEVER, 2)]}, above={"accuracy": 0.8})
    (method,) = found.methods
    np.testing.assert_array_equal(method.costs["round"], [6, 8, np.inf])
    np.testing.assert_array_equal(method.costs["bytes"], [60, 80, np.inf])
    np.testing.assert_allclose(method.costs["seconds"], [3, 4, np.inf])
    assert np.isnan(method.costs["clock"]).all()
    row = dict(zip(found.table.columns, found.table.rows[0], strict=True))
    assert row["reached"] == "not reached in 1 of 3"
    assert row["rounds"] == "8 (6 – not reached)"
    assert "simulated seconds" not in row
    assert row["final accuracy lowest"] == "0.7 (0.1 – 0.8)"
    assert "every 2 rounds" in found.note
    assert "within 10 rounds" in found.note
    for text in (str(found), found._repr_html_()):
        assert "not reached in 1 of 3" in text


def test_all_of_several_targets_in_one_record():
    run = made(FAST, gap=[0.1, 0.01, 0.5, 1e-3, 1e-4], clock=[1, 2, 3, 4, 5])
    (method,) = tw.compare({"A": run}, above={"accuracy": 0.8}, below={"gap": 0.01}).methods
    assert method.costs["round"][0] == 10  # gap alone at 4, accuracy alone at 6
    assert method.costs["clock"][0] == 5


def test_most_seeds_missing_it_makes_the_median_a_miss():
    found = tw.compare({"A": [made(FAST, 0), made(NEVER, 1), made(NEVER, 2)]}, above={"accuracy": 0.8})
    assert found.table.rows[0][3] == "not reached (6 – not reached)"
    assert spread(np.array([np.inf, 1.0]), number) == "not reached (1 – not reached)"
    assert spread(np.array([np.nan]), number) == "–"


def test_a_list_is_named_by_its_algorithms():
    names = lambda runs: [method.name for method in tw.compare(runs).methods]
    assert names([made(FAST, 0), made(FAST, 0, Other()), made(FAST, 1)]) == ["Averaging", "Other"]
    assert names([made(FAST, 0, Other(0.5)), made(FAST, 0, Other(0.25))]) == ["Other(rate=0.5)", "Other(rate=0.25)"]


def test_problems_drawn_anew_for_every_seed_are_paired():
    drawn = lambda: [made(FAST, seed, fingerprint=str(seed)) for seed in range(3)]
    tw.compare({"A": drawn(), "B": drawn()}, above={"accuracy": 0.8})
    with pytest.raises(ValueError, match="same seeds for every method"):
        tw.compare({"A": drawn(), "B": drawn()[:2]}, above={"accuracy": 0.8})


@pytest.mark.parametrize(
    ("runs", "error", "words"),
    [
        ({}, ValueError, "no runs"),
        ([], ValueError, "no runs"),
        (made(FAST), TypeError, "one Result"),
        (3, TypeError, "got int"),
        ({"A": []}, ValueError, "'A' holds no run"),
        ({"A": [1]}, TypeError, "'A' holds int"),
        ({"A": [made(FAST), made(SLOW)]}, ValueError, "2 runs of 'A' with seed 0"),
        ({"A": [made(FAST), made(SLOW, 1, Other())]}, ValueError, "differ in the settings of the algorithm"),
        ({"A": [made(FAST), made(SLOW, 1, network="x")]}, ValueError, "differ in the network"),
        ({"A": made(FAST), "B": made(FAST, fingerprint="e" * 64)}, ValueError, r"problem .*got eeeeeeeeeeee…, expected ffffff"),
        ({"A": made(FAST), "B": made(FAST, fingerprint="unknown")}, ValueError, "does not say its problem"),
        ({"A": made(FAST), "B": made(FAST, evaluate={"accuracy": "x"})}, ValueError, "evaluation 'accuracy'.*same evaluate="),
    ],
)
def test_what_is_refused(runs, error, words):
    with pytest.raises(error, match=words):
        tw.compare(runs, above={"accuracy": 0.8})


def test_refused_targets():
    with pytest.raises(ValueError, match=r"no column 'gap'.*reference="):
        tw.compare({"A": made(FAST)}, below={"gap": 1e-3})
    with pytest.raises(ValueError, match="both in above= and in below="):
        tw.compare({"A": made(FAST)}, above={"accuracy": 1}, below={"accuracy": 1})
    with pytest.raises(ValueError, match="finite number"):
        tw.compare({"A": made(FAST)}, above={"accuracy": np.nan})
    away = {"A": made(FAST, gap=1 / np.arange(2, 12, 2)), "B": made(FAST, gap=1 / np.arange(2, 12, 2) - 1e-3)}
    with pytest.raises(ValueError, match="different optima"):
        tw.compare(away, below={"gap": 1e-3})


def test_the_band_runs_from_the_lowest_to_the_highest_seed():
    (method,) = tw.compare({"A": [made([0.1, 0.2, 0.3], 0), made([0.3, 0.4], 1), made([0.2, 0.9], 2)]}).methods
    points, (low, middle, high) = band(method, "accuracy", "round")
    np.testing.assert_allclose(points, [2, 4])
    np.testing.assert_allclose([low, middle, high], [[0.1, 0.2], [0.2, 0.4], [0.3, 0.9]])


def test_pictures_pages_and_frames(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    runs = {"A </b>": [made(FAST, 0, clock=range(5)), made(NEVER, 1, clock=range(5))], "$B": made(SLOW)}
    found = tw.compare(runs, above={"accuracy": 0.8})
    figure = found.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [axis.get_xlabel() for axis in figure.axes] == ["round", "payload sent", "simulated seconds"]
    strokes = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines if line.get_linewidth() > 1}
    assert len({colour for colour, _ in strokes}) == len({dash for _, dash in strokes}) == 2
    with pytest.raises(ValueError, match="got the metric 'no'"):
        found.plot(metric="no")
    page = found.report(tmp_path / "c.html").read_text()
    assert "</b>" not in page
    assert "<svg" in page
    assert "<!DOCTYPE svg" not in page
    frame = found.to_pandas()
    assert frame["round_to_target"].tolist() == [6, np.inf, 8]
    assert frame["seed"].tolist() == [0, 1, 0]


def test_real_runs_reach_it_when_their_histories_say_so():
    rng = np.random.default_rng(0)
    A, b = np.stack([np.eye(2) * (1 + i) for i in range(3)]), rng.standard_normal((3, 2))
    problem = tw.quadratic(A, b)
    reference = tw.reference(problem)
    solve = lambda algorithm: tw.solve(problem, algorithm, rounds=30, every=1, reference=reference)
    runs = {"FedAvg": solve(tw.FedAvg()), "SCAFFOLD": solve(tw.SCAFFOLD())}
    found = tw.compare(runs, below={"gap": 1e-2})
    for method in found.methods:
        gaps = method.runs[0].history["gap"]
        k = method.costs["round"][0]
        assert (gaps[: int(k) - 1] > 1e-2).all()
        assert gaps[int(k) - 1] <= 1e-2
    other = tw.solve(tw.quadratic(A, 2 * b), tw.FedAvg(), rounds=3)
    with pytest.raises(ValueError, match="differ in the problem"):
        tw.compare({**runs, "other": other}, below={"objective": 0})
