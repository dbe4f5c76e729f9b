"""Experiment files: what can be said in them, what they run, and the folder they leave."""

import inspect
import json
import pathlib

import numpy as np
import pytest
from typer.testing import CliRunner

import thalweg as tw
from thalweg.algorithm import PeerAlgorithm
from thalweg.cli.app import app
from thalweg.experiment import load, signature
from thalweg.experiment.networks import NetworkTable

REGRESSION = """
[problem]
kind = "least_squares"
data = "houses.csv"
label = "price"
agent = "town"
test = 0
fit_intercept = false
scale = { area = [2.0, 4.0] }
[network]
kind = "complete"
[algorithm]
name = "GradientTracking"
[stop]
progress = 1e-12
agreement = 1e-12
[run]
rounds = 20000
every = 100
"""

BUILDERS = [name for name in tw.network.__all__ if inspect.isfunction(getattr(tw.network, name))]
ALGORITHMS = [n for n in tw.algorithms.__all__ if issubclass(getattr(tw.algorithms, n), PeerAlgorithm)]
RING = {"kind": "ring", "n": 8}
# What to write for an argument that has no default, by its name.
WRITTEN = {
    "n": 8, "p": 0.6, "seed": 3, "rows": 2, "cols": 3, "dim": 3, "k": 4, "degree": 3, "edges": [[0, 1], [1, 2]],
    "matrix": [[0.5, 0.5], [0.5, 0.5]], "network": RING, "networks": [RING, {"kind": "star", "n": 8}], "graph": "net.edgelist",
}  # fmt: skip


def houses(folder, towns=3):
    """Ragged, heterogeneous towns; returns the pooled least-squares solution of the scaled features."""
    rng = np.random.default_rng(0)
    rows, x, y = [], [], []
    for t in range(towns):
        for _ in range(4 + 3 * t):
            area, age = rng.normal(2, 4), rng.normal(t, 1)
            price = 3 * area - age + rng.normal()
            rows.append((f"town {t}", area, age, price))
            x.append([(area - 2) / 4, age])
            y.append(price)
    text = "town,area,age,price\n" + "\n".join(",".join(map(repr, row)).replace("'", "") for row in rows)
    (folder / "houses.csv").write_text(text)
    return np.linalg.lstsq(np.array(x), np.array(y), rcond=None)[0]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("houses")
    solution = houses(folder)
    (folder / "houses.toml").write_text(REGRESSION)
    done = CliRunner().invoke(app, ["run", str(folder / "houses.toml"), "--out", str(folder / "run")], env={"COLUMNS": "200"})
    return folder, solution, done


def test_a_run_from_a_file_finds_the_pooled_solution(ran):
    folder, solution, done = ran
    assert done.exit_code == 0, done.output
    assert "converged" in done.stdout
    result, _ = tw.experiment.RunFolder(folder / "run").read()
    np.testing.assert_allclose(result.x["weights"], solution, atol=1e-9)
    np.testing.assert_allclose(result.agents["weights"], np.tile(solution, (3, 1)), atol=1e-9)
    assert result.names == ("town 0", "town 1", "town 2")


def test_the_report_is_drawn_again_from_the_folder(ran):
    folder, _, _ = ran
    report = folder / "run" / "report.html"
    before = report.read_text()
    report.unlink()
    done = CliRunner().invoke(app, ["report", str(folder / "run")])
    assert done.exit_code == 0, done.output
    assert report.read_text() == before


def test_a_folder_that_holds_a_run_is_not_overwritten(ran):
    folder, _, _ = ran
    done = CliRunner().invoke(app, ["run", str(folder / "houses.toml"), "--out", str(folder / "run")], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "already holds a run: `thalweg resume" in done.stderr


def test_a_finished_run_resumed_is_the_same(ran):
    folder, _, _ = ran
    before = (folder / "run" / "result.npz").read_bytes()
    done = CliRunner().invoke(app, ["resume", str(folder / "run")], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    with np.load(folder / "run" / "result.npz") as now:
        (folder / "before.npz").write_bytes(before)
        with np.load(folder / "before.npz") as then:
            assert all(now[name].tobytes() == then[name].tobytes() for name in then.files)


def test_the_hash_knows_content_and_records_and_nothing_else(tmp_path):
    houses(tmp_path)
    (tmp_path / "a.toml").write_text(REGRESSION)
    first = load(tmp_path / "a.toml").hash
    swapped = "# another order, a default said aloud\n" + REGRESSION.replace(
        "rounds = 20000\nevery = 100", "every=100\nrounds=20_000\nseed=0"
    )
    (tmp_path / "b.toml").write_text(swapped)
    assert load(tmp_path / "b.toml").hash == first
    (tmp_path / "copy.csv").write_text((tmp_path / "houses.csv").read_text())
    (tmp_path / "c.toml").write_text(REGRESSION.replace("houses.csv", "copy.csv"))
    assert load(tmp_path / "c.toml").hash == first
    assert load(tmp_path / "a.toml").with_settings(seed=1).hash != first
    (tmp_path / "d.toml").write_text(REGRESSION.replace('"complete"', '"ring"'))
    assert load(tmp_path / "d.toml").hash != first
    (tmp_path / "houses.csv").write_text((tmp_path / "houses.csv").read_text() + "\ntown 0,1,1,1")
    assert load(tmp_path / "a.toml").hash != first


@pytest.mark.parametrize("name", BUILDERS)
def test_every_builder_can_be_written_in_a_file(name, tmp_path):
    builder = getattr(tw.network, name)
    arguments = signature.parameters(builder)
    assert set(signature.kinds(builder)) == set(arguments)
    (tmp_path / "net.edgelist").write_text("a b\nb c\nc a\n")
    needed = {key: WRITTEN[key] for key, p in arguments.items() if p.default is inspect.Parameter.empty}
    table = NetworkTable.read({"kind": name, **(needed or {"depth": 2})})
    network = table.build(8, tmp_path)
    assert NetworkTable.read(table.given()).given() == table.given()
    if not needed.keys() & {"network", "networks", "graph"}:
        direct = builder(**(needed or {"depth": 2}))
        np.testing.assert_array_equal(network.edges, direct.edges)
        assert repr(network) == repr(direct)


def test_networks_of_networks_failures_and_files(tmp_path):
    gossip = NetworkTable.read({"kind": "pairwise_gossip", "network": {"kind": "star"}, "failures": {"loss": 0.25}}).build(
        5, tmp_path
    )
    assert (gossip.n, len(gossip.edges), str(gossip.schedule)) == (5, 4, "pairwise gossip")
    assert gossip.failures.loss == 0.25
    phases = NetworkTable.read({"kind": "random_phases", "networks": [RING, RING], "probabilities": [0.25, 0.75]}).build(
        8, tmp_path
    )
    assert phases.schedule.probabilities == (0.25, 0.75)
    (tmp_path / "net.edgelist").write_text("a b\nb c\n")
    assert NetworkTable.read({"kind": "from_networkx", "graph": "net.edgelist"}).build(3, tmp_path).n == 3


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_and_hyper_parameter_can_be_written_in_a_file(name):
    kind = getattr(tw.algorithms, name)
    assert set(signature.kinds(kind)) == set(signature.parameters(kind))


def test_step_sizes_of_every_form():
    table = signature.table_of(tw.NIDS)
    made = lambda value: tw.NIDS(**signature.arguments(tw.NIDS, table.model_validate({"step_size": value}))).step_size
    assert made(1) == 1.0
    assert made({"fraction": 0.5}).fraction == 0.5
    np.testing.assert_array_equal(made([0.1, 0.2]).values, [0.1, 0.2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('label = "price"', 'label = "prize"'),
            "problem.label: got \"prize\", expected one of town, area, age, price (did you mean 'price'?)",
        ),
        (('label = "price"\n', ""), "problem.label: got nothing, expected a column of the CSV file"),
        (("area = [2.0, 4.0]", "area = [2.0]"), "problem.scale.area: got [2.0], expected [centre, scale]"),
        (
            ("area = [2.0, 4.0]", "aera = [2.0, 1.0]"),
            "problem.scale: got \"aera\", expected one of area, age (did you mean 'area'?)",
        ),
        (("test = 0", "test = 0.99"), "leaves 'town 0' no training example"),
        (('"least_squares"', '"logistic_regression"'), "expected labels 0 and 1"),
        (
            ("fit_intercept = false", 'fit_intercept = false\nfeatures = ["area", "town"]'),
            "column 'town' of houses.csv, expected a number",
        ),
    ],
)
def test_mistakes_about_records(tmp_path, change, message):
    houses(tmp_path)
    (tmp_path / "a.toml").write_text(REGRESSION.replace(*change))
    with pytest.raises(tw.experiment.Mistake) as error:
        load(tmp_path / "a.toml").run(tmp_path / "run")
    assert message in str(error.value)


def test_a_refused_run_leaves_nothing(tmp_path):
    houses(tmp_path)
    (tmp_path / "a.toml").write_text(REGRESSION.replace('"complete"', '"ring"\nn = 7'))
    with pytest.raises(ValueError, match="3 agents and the network 7"):
        load(tmp_path / "a.toml").run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_examples_load():
    files = sorted((pathlib.Path(__file__).parents[2] / "examples").glob("*.toml"))
    assert files
    for file in files:
        assert json.loads(json.dumps(load(file).content)) == load(file).content
