"""The report and the plot, as far as Python decides: numbers, thinning, rates, escaping, and files that need no network."""

import base64
import dataclasses
import itertools
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thalweg as tw
from handmade import ALONE, decaying, market_run, ring_run, ring_sigma, with_history
from thalweg.observe import History, Outcome, Result, Table, write_report
from thalweg.observe.figures import charts, sample
from thalweg.observe.layout import layout
from thalweg.observe.mixing import Mixing, fit
from thalweg.observe.payload import payload
from thalweg.observe.report import page
from thalweg.observe.text import number


class Document(HTMLParser):
    """Tags with attributes, and the text of each script."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.scripts, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._inside = True
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "script"

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def data_of(run: Result) -> dict:
    return json.loads(Document(page(run)).scripts[0], parse_constant=refuse)


# ---- a file that needs nothing else --------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    path = write_report(ring_run(decaying(6, 60)), tmp_path / "run.html", (Table("AUC", ("site", "auc"), [("a", 0.5)]),))
    text = path.read_text(encoding="utf-8")
    for tag, attributes in Document(text).tags:
        assert tag not in ("img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert attributes.get("href", "data:").startswith("data:")
    assert not re.search(r"url\((?!#)|@import|\bfetch\(|XMLHttpRequest|\bimport\b", text)
    assert re.findall(r"https?://[^\"'\s]+", text) == ["http://www.w3.org/2000/svg"]  # the name of a namespace, never loaded
    assert "default-src 'none'" in text


def test_content_is_there():
    table = Table("AUC per site", ("site", "auc", "n"), [("north", 0.5, 3), ("south", 0.875, None)], "held out")
    text = page(ring_run(decaying(6, 60)), (table,))
    for expected in (
        "Averaging on ring(6)",
        "Round limit",
        "all rounds done",
        Outcome.ROUND_LIMIT.remedy,
        "float64",
        "numpy 2",
    ):
        assert expected in text
    assert "AUC per site" in text
    assert "held out" in text
    assert ">0.500<" in text
    assert ">0.875<" in text
    assert ">–<" in text
    assert 'data-value="0.875"' in text


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=4, max_size=4))
def test_no_name_can_break_out(names):
    names = [f"{name}</script><img src=x onerror=alert(1)>\u2028&amp;" for name in names]
    run = ring_run(
        decaying(4, 5), names=tuple(names), reason=names[0], warnings=(names[1],), config={names[2]: {names[3]: names[0]}}
    )
    document = Document(page(run, (Table(names[0], names[:2], [names[2:]], names[1]),)))
    assert len(document.scripts) == 2
    assert not [tag for tag, _ in document.tags if tag == "img"]
    assert json.loads(document.scripts[0])["graph"]["names"] == names
    assert not re.search(r"[<>&\u2028\u2029]", payload(run))


def test_values_that_are_not_finite_become_gaps():
    run = ring_run(decaying(4, 9))
    bad = np.array([1.0, np.nan, np.inf, -np.inf, 0.0, 1e-320, 1e300, -1.0, 0.5, 0.25])
    agents = {"loss": np.where(np.arange(10)[:, None] == 3, np.nan, run.history["loss"])}
    run = with_history(run, {"gap": bad, "objective": bad}, agents)
    data = data_of(run)
    gap = next(line for chart in data["charts"]["charts"] for line in chart["lines"] if line["name"] == "objective gap")
    assert [value is None for value in gap["values"]] == (~np.isfinite(bad)).tolist()
    loss = np.frombuffer(base64.b64decode(data["graph"]["columns"][0]["values"]), "<f4").reshape(10, 4)
    assert np.isnan(loss[3]).all()
    np.testing.assert_allclose(np.delete(loss, 3, 0), np.delete(run.history["loss"], 3, 0), rtol=1e-6)


def test_a_run_of_nothing_but_nan_still_has_a_report():
    run = ring_run(decaying(3, 4))
    nan = {name: np.full(5, np.nan) for name in run.history.scalars if name not in ("round", "bytes")}
    run = with_history(run, nan, {name: np.full((5, 3), np.nan) for name in run.history.agents})
    assert data_of(run)["charts"]["charts"] == []
    assert "Mixing rate" in page(run)  # the prediction stands


def test_no_record_and_one_agent():
    empty = dataclasses.replace(ring_run(decaying(6, 60)), history=History.empty())
    assert data_of(empty)["charts"] == {"round": [], "bytes": None, "charts": []}
    alone = ring_run(decaying(1, 3), graph=ALONE)
    assert data_of(alone)["graph"]["positions"] == [[0, 1]]


def test_large_runs_stay_small():
    run = ring_run(decaying(1000, 1500))
    text = page(run)
    assert len(text.encode()) < 3e6
    data = json.loads(Document(text).scripts[0])
    assert len(data["charts"]["round"]) == 1000
    assert len(data["graph"]["round"]) == 200
    assert data["charts"]["round"][-1] == data["graph"]["round"][-1] == 1500


def test_too_many_agents_are_not_drawn_and_it_is_said():
    data = data_of(ring_run(decaying(2001, 2)))
    assert "2,001" in data["graph"]["skipped"]
    assert "positions" not in data["graph"]


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="row 1 of table 'T' has 1 cells, expected one for each of the 2 columns"):
        Table("T", ("a", "b"), [(1, 2), (3,)])
    with pytest.raises(TypeError, match="Table"):
        write_report(ring_run(decaying(6, 60)), tmp_path / "x.html", (("T", ("a",), []),))
    assert not (tmp_path / "x.html").exists()


# ---- mixing --------------------------------------------------------------------------------------------------------------


def test_measured_rate_is_the_second_eigenvalue():
    for n in (5, 8, 12):
        run = ring_run(decaying(n, 150))
        mixing = Mixing.of(run)
        assert mixing.measured == pytest.approx(mixing.predicted, rel=1e-9)
        np.testing.assert_allclose(mixing.guide, run.history["consensus_error"], rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.9, 0.999), st.floats(1e-14, 1e-6), st.integers(0, 100))
def test_rate_is_found_above_a_floor_and_after_a_transient(rate, floor, seed):
    """e_k = rate^k + a faster transient + a noisy floor. Up to 10 % before the end the floor adds at most floor^0.9/floor."""
    k = np.arange(0, 3 * math.log(floor) / math.log(rate))
    noise = np.random.default_rng(seed).uniform(0.8, 1.25, len(k))
    measured, first, last = fit(k, rate**k + 3 * (0.5 * rate) ** k + floor * noise)
    assert math.log(measured) == pytest.approx(math.log(rate), rel=0.1)
    assert 0 < first < last < math.log(floor) / math.log(rate)


@pytest.mark.parametrize(
    "errors",
    [np.zeros(50), np.ones(50), np.full(50, np.nan), 1.1 ** np.arange(50), 0.5 ** np.arange(3), 1 - 0.01 * np.arange(50)],
    ids=["zero", "constant", "nan", "growing", "three records", "less than tenfold"],
)
def test_no_rate_where_nothing_decays(errors):
    assert fit(np.arange(len(errors)), errors) == (None, 0, 0)


def test_guide_starts_at_the_largest_error():
    run = ring_run(decaying(6, 20))
    errors = run.history["consensus_error"].copy()
    errors[:4] = [0, 1e-3, 5.0, 2.0]
    guide = Mixing.of(with_history(run, {"consensus_error": errors})).guide
    assert np.isnan(guide[:2]).all()
    assert guide[2] == pytest.approx(5)
    np.testing.assert_allclose(guide[3:] / guide[2:-1], ring_sigma(6))


# ---- figures -------------------------------------------------------------------------------------------------------------


def test_lines_of_a_chart_differ_without_colour():
    run = ring_run(decaying(6, 60))
    run = with_history(run, {"optimality": run.history["gap"]})
    for chart in charts(run):
        assert len({line.dash for line in chart.lines}) == len({line.colour for line in chart.lines}) == len(chart.lines)


def test_objective_stands_in_for_the_gap():
    run = ring_run(decaying(6, 60))
    without = {name: column for name, column in run.history.scalars.items() if name not in ("gap", "error")}
    titles = [chart.title for chart in charts(dataclasses.replace(run, history=History(without, run.history.agents)))]
    assert titles == ["Objective", "Distance from the solution", "Disagreement between agents"]
    assert [chart.title for chart in charts(run)] == ["Distance from the solution", "Disagreement between agents"]


@given(st.integers(0, 5000), st.integers(2, 300))
def test_sample_keeps_the_ends(records, limit):
    kept = sample(records, limit)
    assert len(kept) == min(records, limit)
    assert (np.diff(kept) > 0).all()
    if records:
        assert kept[0] == 0
        assert kept[-1] == records - 1


def stress(points, hops):
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return ((apart - hops) ** 2).sum()


def test_layout_of_a_path_is_a_line():
    n = 12
    points = layout(np.stack([np.arange(n - 1), np.arange(1, n)], axis=1), n)
    hops = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points[None], axis=-1), hops, atol=0.05)
    assert np.ptp(points[:, 0]) > 10 * np.ptp(points[:, 1])  # the long side lies


def test_layout_lowers_the_stress():
    n = 10
    edges = np.array([(i, (i + 1) % n) for i in range(n)])
    around = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    values = [stress(layout(edges, n, iterations), np.minimum(around, n - around)) for iterations in (0, 1, 3, 10, 100)]
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in itertools.pairwise(values))
    np.testing.assert_array_equal(layout(edges, n), layout(edges, n))


def test_layout_of_unconnected_and_complete_graphs():
    apart = layout(np.array([(0, 1), (2, 3)]), 4)
    assert np.isfinite(apart).all()
    assert len(np.unique(apart.round(3), axis=0)) == 4
    complete = layout(np.array([(i, j) for i in range(5) for j in range(i)]), 5)
    np.testing.assert_allclose(np.linalg.norm(complete, axis=1), 1)


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda v: v == 0 or 1e-300 < abs(v) < 1e300), st.integers(2, 6))
def test_number_says_the_value(value, digits):
    text = number(value, digits).replace("−", "-").replace(",", "")
    plain = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    read = float(re.sub(r" × 10(.+)", lambda found: "e" + found[1].translate(plain), text))
    assert read == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


def test_number_examples():
    assert [number(v) for v in (1234567, 0.25, 1.5e-8, -2e7, float("nan"), float("inf"), 9999.99, 0.0)] == [
        "1,234,567", "0.25", "1.5 × 10⁻⁸", "−2 × 10⁷", "not a number", "∞", "10,000", "0",
    ]  # fmt: skip


# ---- plot ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_plot_writes_pictures(tmp_path, suffix, magic):
    pytest.importorskip("matplotlib")
    figure = ring_run(decaying(6, 60)).plot(tmp_path / f"run{suffix}")
    assert (tmp_path / f"run{suffix}").read_bytes().startswith(magic)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[:3] == ["Network", "Distance from the solution", "Disagreement between agents"]
    np.testing.assert_allclose(figure.axes[2].lines[0].get_ydata(), ring_run(decaying(6, 60)).history["consensus_error"])


def test_plot_survives_what_a_run_can_be(tmp_path):
    pytest.importorskip("matplotlib")
    directed = {"edges": np.array([(0, 1), (1, 2), (2, 0)]), "positions": None, "directed": True, "facts": {"sigma": None}}
    runs = {
        "empty": dataclasses.replace(ring_run(decaying(6, 60)), history=History.empty()),
        "nan": with_history(ring_run(decaying(3, 4)), {"gap": np.full(5, np.nan)}, {"loss": np.full((5, 3), np.nan)}),
        "one": ring_run(decaying(1, 3), graph=ALONE),
        "directed": ring_run(decaying(3, 4), names=("a $x$", "<b>", "c_1^"), graph=directed),
        "many": ring_run(decaying(2001, 2)),
    }
    for name, run in runs.items():
        run.plot(tmp_path / f"{name}.png")


# ---- servers -------------------------------------------------------------------------------------------------------------


def served(n=5, **options):
    """FedAvg on quadratics; "distance" is evaluated on examples of each client, "shared" on one pool."""
    rng = np.random.default_rng(0)
    problem = tw.quadratic(np.stack([np.eye(2) * (1 + i) for i in range(n)]), rng.standard_normal((n, 2)))
    distance = lambda x, example: ((x - example) ** 2).sum()
    own = [rng.standard_normal((3 + i, 2)) for i in range(n)]
    evaluate = {"distance": (distance, own), "shared": (distance, np.concatenate(own))}
    return tw.solve(problem, tw.FedAvg(), rounds=8, every=2, **({"evaluate": evaluate} | options))


def test_a_run_under_a_server_speaks_of_clients():
    run = served(fleet=tw.Fleet(5, seconds_per_step=0.5))
    text, printed = page(run), str(run)
    document = Document(text)
    shown = re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.DOTALL)
    assert "agent" not in re.sub(r"<[^>]*>", " ", shown)
    assert "agent" not in printed
    assert "Mixing rate" not in text
    values = [attributes["value"] for tag, attributes in document.tags if tag == "input"]
    assert values == ["round", "bytes", "bytes_down", "clock"]
    data = json.loads(document.scripts[0])
    assert data["charts"]["clock"] == pytest.approx(run.history["clock"].tolist())
    assert data["charts"]["bytes_down"] == run.history["bytes_down"].tolist()
    assert data["graph"]["edgeCount"] == 0
    assert data["graph"]["member"] == "client"
    assert len({tuple(point) for point in data["graph"]["positions"]}) == 5
    assert [column["name"] for column in data["graph"]["columns"]] == ["loss", "distance"]
    assert [chart["title"] for chart in data["charts"]["charts"]][2:] == ["Distance", "Shared", "Loss", "Drift and dispersion"]


def test_worst_clients_and_spread_are_always_said():
    run = served(12)
    loss, distance = run.history.agents["loss"][-1], run.history.agents["distance"][-1]
    for text in (str(run), page(run)):
        assert f"worst {loss.max():.4g} ({run.names[loss.argmax()]}), worst tenth {loss.max():.4g}" in text
        assert f"lowest {distance.min():.4g} ({run.names[distance.argmin()]})" in text
        assert f"highest {distance.max():.4g} ({run.names[distance.argmax()]})" in text
        assert f"spread {distance.std():.3g}" in text


def test_groups_are_said_with_their_means_and_ends():
    labels = ["rural", "urban", "rural", "urban", "urban"]
    run = served(groups=labels)
    loss = run.history.agents["loss"][-1]
    rural, urban = loss[[0, 2]], loss[[1, 3, 4]]
    assert f"rural {rural.mean():.4g}, urban {urban.mean():.4g}" in str(run)
    text = page(run)
    table = text[text.index("Groups") :]
    for value in (rural.mean(), rural.max(), urban.min(), urban.max()):
        assert f'data-value="{float(value)!r}"' in table
    with pytest.raises(ValueError, match="got groups=2 labels, expected a label for each of the 5"):
        served(groups=["a", "b"])


def test_a_run_that_kept_no_clients_still_has_a_report(tmp_path):
    pytest.importorskip("matplotlib")
    run = served(keep_agents=False)
    assert "by 5 clients" in str(run)
    assert "Nothing was kept of each client" in page(run)
    run.plot(tmp_path / "run.png")


# ---- coupled problems ----------------------------------------------------------------------------------------------------


def chart_of(run, title):
    return next(chart for chart in charts(run) if chart.title == title)


def test_a_cost_is_never_shown_without_its_violation():
    """2·0.5^k is at most 1e-4 from k = 15 on."""
    run = market_run()
    assert [chart.title for chart in charts(run)] == ["Gap and violation", "Cost", "Prices", "Residuals"]
    cost, bound = chart_of(run, "Cost").lines
    assert "violation at most 0.0001" in cost.name
    np.testing.assert_array_equal(np.isfinite(cost.values), np.arange(41) >= 15)
    np.testing.assert_array_equal(bound.values, run.history["dual"])
    gap, violation = chart_of(run, "Gap and violation").lines
    np.testing.assert_array_equal(gap.values, run.history["duality_gap"])
    np.testing.assert_array_equal(violation.values, run.history["violation"])
    off = with_history(run, {"violation": np.full(41, 0.5)})
    assert [line.name for line in chart_of(off, "Cost").lines] == ["cost at least"]
    shown = re.sub(r"<script.*?</script>|<style.*?</style>", "", page(off), flags=re.DOTALL)
    assert "at a violation of 2" in shown
    assert "objective" not in re.sub(r"<[^>]*>", " ", shown)
    assert off.history.beside == ("violation", 0.5)


def test_a_negative_gap_is_drawn_by_its_size():
    run = with_history(market_run(), {"duality_gap": -(0.5 ** np.arange(41))})
    np.testing.assert_array_equal(chart_of(run, "Gap and violation").lines[0].values, 0.5 ** np.arange(41))


def test_prices_of_many_rows_are_drawn_as_their_ends():
    for m, names in ((6, [f"row {j}" for j in range(6)]), (7, ["highest of 7 rows", "median", "lowest"])):
        lines = chart_of(market_run(m=m), "Prices").lines
        assert [line.name for line in lines] == names
        assert len({line.dash for line in lines}) == len({line.colour for line in lines}) == len(lines)
    run = market_run(m=2)
    kept = {name: column for name, column in run.history.scalars.items() if not name.startswith("price of")}
    bare = dataclasses.replace(run, history=History(kept, run.history.agents))
    assert "Prices" not in [chart.title for chart in charts(bare)]


def test_certificate_prices_and_plans_are_in_the_report():
    text = page(market_run())
    assert "Averaging on 5 agents and 2 rows" in text
    assert "relative to max(1, |bound|)" in text
    assert "of the worst agent (agent 2)" in text
    assert ">−1.5<" in text or ">−1.50<" in text
    for heading in ("final cost", "plan 0", "plan 1"):
        assert f">{heading}<" in text
    assert "from the price-setter" in text
    proved = market_run().certificate
    unproved = dataclasses.replace(market_run(), certificate=dataclasses.replace(proved, dual=-np.inf, stationarity=np.nan))
    text = page(unproved)
    assert "no bound could be proved" in text
    assert "not measured" in text
    assert "plan 0" not in page(market_run(m=7))  # too many numbers


def test_plans_are_listed_by_the_names_of_their_leaves():
    plans = {"in": np.arange(5.0), "out": np.zeros((5, 2))}
    text = page(market_run(agents=plans, x=plans))
    for label in ("plan: in", "plan: out 0", "plan: out 1"):
        assert f">{label}<" in text


def test_under_a_price_setter_there_is_no_empty_picture(tmp_path):
    run = market_run()
    document = Document(page(run))
    assert "graph" not in [attributes.get("id") for _, attributes in document.tags]
    assert "skipped" in data_of(run)["graph"]
    pytest.importorskip("matplotlib")
    titles = [axis.get_title(loc="left") for axis in run.plot(tmp_path / "run.png").axes]
    assert titles == ["Gap and violation", "Cost", "Prices", "Residuals"]
    among = dataclasses.replace(run, ledger=dataclasses.replace(run.ledger, received=None))
    among = dataclasses.replace(among, graph=among.graph | {"edges": np.array([[0, 1], [1, 2], [2, 3], [3, 4]])})
    among = with_history(among, {"consensus_error": 0.5 ** np.arange(41)})
    assert "graph" in [attributes.get("id") for _, attributes in Document(page(among)).tags]
    assert "disagreement about the price" in [line.name for line in chart_of(among, "Gap and violation").lines]
    assert [axis.get_title(loc="left") for axis in among.plot().axes][:2] == ["Network", "Gap and violation"]


def test_coupled_runs_of_every_size_have_a_report(tmp_path):
    pytest.importorskip("matplotlib")
    empty = dataclasses.replace(market_run(), history=History.empty())
    bare = dataclasses.replace(market_run(), certificate=None)
    many = market_run(ids=np.arange(5000), names=("all clients",), agents=np.zeros((5000, 2)))
    together = dataclasses.replace(many.ledger, messages=np.array([200_000]), received=np.array([200_000]))
    many = dataclasses.replace(many, history=History(many.history.scalars, {}), ledger=together)
    wide = dataclasses.replace(market_run(), price=np.arange(2100.0))
    for name, run in {"empty": empty, "bare": bare, "many": many, "wide": wide}.items():
        page(run)
        run.plot(tmp_path / f"{name}.png")
    assert "The 2,000 of 2,100 rows with the largest prices" in page(wide)
    assert "5,000 agents and 2 rows" in page(many)
    assert "plan 0" not in page(many)


def test_a_coupled_result_comes_back_from_its_folder(tmp_path):
    from thalweg.experiment import RunFolder

    folder, run = RunFolder(tmp_path), market_run(algorithm=tw.DualAscent(step_size=0.5))
    before = folder.write(run).read_text()
    again, _ = folder.read()
    np.testing.assert_array_equal(again.price, run.price)
    assert again.certificate.__dict__ == run.certificate.__dict__
    assert folder.write(again).read_text() == before


def test_a_run_with_liars_and_a_budget_shows_what_is_spent_and_measures_the_honest():
    pytest.importorskip("dp_accounting")
    rng = np.random.default_rng(0)
    problem = tw.quadratic(np.stack([np.eye(2)] * 10), rng.normal(size=(10, 2)))
    run = tw.solve(
        problem, tw.FedAvg(tw.LocalSGD(0.05, steps=1), cohort=tw.cohort.poisson(0.5)), rounds=8, every=1,
        aggregate=tw.message.noisy_mean(noise_multiplier=1.0, clip=1.0), privacy=tw.privacy.Budget(20.0, 1e-5),
        adversary=tw.adversary.sign_flip((3, 7), 5.0), progress=False,
    )  # fmt: skip
    honest = np.delete(run.history.agents["loss"], (3, 7), axis=1)
    worst = next(line for line in chart_of(run, "Loss").lines if line.name == "worst client")
    np.testing.assert_array_equal(worst.values, honest.max(axis=1))
    np.testing.assert_array_equal(chart_of(run, "Privacy spent").lines[0].values, run.ledger.epsilon)
    text = page(run)
    assert "not a number" not in text.partition("<script")[0]
    assert text.count(">–</td>") == 2
    assert "of clients that lie nothing is measured" in text
    assert "SignFlip(agents=(3, 7)" in text
