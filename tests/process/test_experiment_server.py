"""Experiment files that name an algorithm with a server: what can be said, what runs, what is refused."""

import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import thalweg as tw
from thalweg.cli.app import app
from thalweg.experiment import load, signature

VISITS = """
[problem]
kind = "least_squares"
data = "visits.csv"
label = "days"
agent = "clinic"
test = 0
fit_intercept = false
[algorithm]
name = "SCAFFOLD"
cohort = 3
solver = { kind = "LocalSGD", learning_rate = 0.02, steps = 4 }
[run]
rounds = 3000
every = 50
"""
FLEET = """
[fleet]
seconds_per_step = [0.1, 0.2, 0.3, 0.4, 1.0]
download = 1000
dropout = 0.1
availability = { kind = "daily", hours = 24, seed = 1 }
"""


@pytest.fixture
def visits(tmp_path):
    """Ragged, heterogeneous clinics; (folder, pooled least-squares solution)."""
    rng = np.random.default_rng(0)
    x, owner = rng.normal(size=(40, 2)), np.repeat(np.arange(5), [4, 6, 8, 10, 12])
    y = x @ [3.0, -1.0] + owner + 0.1 * rng.normal(size=40)
    lines = [f"clinic {i},{float(a)!r},{float(b)!r},{float(d)!r}" for i, (a, b), d in zip(owner, x, y, strict=True)]
    (tmp_path / "visits.csv").write_text("clinic,age,severity,days\n" + "\n".join(lines))
    return tmp_path, np.linalg.lstsq(x, y, rcond=None)[0]


def written(folder, text, name="a.toml"):
    (folder / name).write_text(text)
    return folder / name


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def test_a_run_from_a_file_is_the_run_of_solve(visits):
    folder, solution = visits
    file = written(folder, VISITS)
    done = call("run", file, "--out", folder / "run")
    assert done.exit_code == 0, done.output
    result, _ = tw.experiment.RunFolder(folder / "run").read()
    np.testing.assert_allclose(result.x["weights"], solution, atol=1e-8)
    assert result.agents is None
    assert type(result.algorithm) is tw.SCAFFOLD
    assert "LocalSGD(learning_rate=0.02" in repr(result.algorithm.solver)
    assert result.ledger.received.sum() == 3 * 3000
    before = (folder / "run" / "report.html").read_text()
    assert call("report", folder / "run").exit_code == 0
    assert (folder / "run" / "report.html").read_text() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:who answers depends")
def test_an_interrupted_run_resumed_is_the_same(visits):
    folder, _ = visits
    file = written(folder, VISITS.replace("SCAFFOLD", "FedNova") + FLEET)
    whole, _ = load(file).with_settings(rounds=60, every=10).run(folder / "whole")
    load(file).with_settings(rounds=20, every=10).run(folder / "part")
    done = call("resume", folder / "part", "--rounds", 60)
    assert done.exit_code == 0, done.output
    resumed, _ = tw.experiment.RunFolder(folder / "part").read()
    np.testing.assert_array_equal(resumed.x["weights"], whole.x["weights"])
    np.testing.assert_array_equal(resumed.history["clock"], whole.history["clock"])
    assert whole.history["clock"][-1] > 60 * 0.4


def test_a_file_gives_solve_what_it_says(visits):
    folder, _ = visits
    text = VISITS.replace("cohort = 3", 'cohort = { kind = "poisson", rate = 0.5, maximum = 5 }').replace("SCAFFOLD", "FedAvg")
    made = load(written(folder, text)).algorithm.build()
    assert made.cohort.rate == 0.5
    assert made.cohort.maximum == 5
    assert (made.solver.learning_rate, made.solver.steps) == (0.02, 4)
    fleet = load(written(folder, text + FLEET)).fleet
    fleet = tw.Fleet(**signature.arguments(tw.Fleet, fleet, n=5, base=folder))
    np.testing.assert_allclose(fleet.seconds_per_step, [0.1, 0.2, 0.3, 0.4, 1.0])
    assert fleet.availability.start.shape == (5, 2)
    assert np.isinf(fleet.upload).all()


@pytest.mark.filterwarnings("ignore:who answers depends")
def test_a_trace_lies_beside_the_file(visits):
    folder, _ = visits
    rows = "".join(f"{i},0,1e9\n" for i in range(5))
    (folder / "trace.csv").write_text("device,start,end\n" + rows)
    text = VISITS + '[fleet]\navailability = { kind = "read_intervals", path = "trace.csv" }\n'
    result, _ = load(written(folder, text)).with_settings(rounds=2).run(folder / "run")
    assert result.rounds == 2
    (folder / "trace.csv").write_text("device,start,end\n0,0,10\n")
    with pytest.raises(tw.experiment.Mistake, match=r"fleet: .*device 1 has no interval"):
        load(written(folder, text)).run(folder / "again")
    (folder / "trace.csv").unlink()
    with pytest.raises(tw.experiment.Mistake, match=r"fleet: .*trace\.csv"):
        load(written(folder, text)).run(folder / "again")


def test_stop_rules_of_a_server(visits):
    folder, _ = visits
    text = VISITS + '[stop]\nbelow = { objective = 1e9 }\nno_better = ["objective", "min", 5]\nbytes = 1_000_000\n'
    result, _ = load(written(folder, text)).run(folder / "run")
    assert result.outcome is tw.Outcome.TARGET


# What a file must say where there is no default.
NEEDED = {"IFCA": {"clusters": 2}, "FedPer": {"shared": {"weights": True}}, "FedRep": {"shared": {"weights": True}}}
HOW = {"solver", "cohort", "head_solver", "personal_solver", "tuning"}


@pytest.mark.parametrize("name", sorted(tw.server.__all__))
def test_every_algorithm_can_be_written_in_a_file(name):
    target = getattr(tw.server, name)
    assert set(signature.kinds(target)) == set(signature.parameters(target))
    table = {key: {"kind": "LocalSGD", "steps": 2} for key in HOW & set(signature.kinds(target)) - {"cohort"}}
    if name == "FedSPS":
        table = {"solver": {"kind": "LocalPolyak", "largest": 2.0}}
    table |= NEEDED.get(name, {}) | {"cohort": {"kind": "uniform", "size": 2}}
    read = signature.read_table(target, table, "algorithm")
    assert read.given() == signature.read_table(target, json.loads(json.dumps(read.given())), "algorithm").given()
    made = target(**signature.arguments(target, read))
    assert isinstance(made, tw.algorithm.ServerAlgorithm)
    assert made.cohort.size == 2


def test_defaults_said_aloud_inside_a_table_do_not_change_the_hash(visits):
    folder, _ = visits
    first = load(written(folder, VISITS)).hash
    assert (
        load(
            written(folder, VISITS.replace("steps = 4", "steps = 4, kind = 'LocalSGD'").replace('kind = "LocalSGD", ', ""))
        ).hash
        == first
    )
    assert load(written(folder, VISITS.replace("steps = 4", "steps = 5"))).hash != first
    assert load(written(folder, VISITS + FLEET)).hash != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("SCAFFOLD", "SCAFOLD"), "algorithm.name: got \"SCAFOLD\", expected one of "),
        (("SCAFFOLD", "SCAFOLD"), "(did you mean 'SCAFFOLD'?)"),
        (("learning_rate", "learning_rat"), "algorithm.solver.learning_rat: got an unknown key, expected one of learning_rate, "),
        (("learning_rate", "learning_rat"), "(did you mean 'learning_rate'?)"),
        (("steps = 4", 'steps = "4"'), 'algorithm.solver.steps: got "4", expected a whole number'),
        (('"LocalSGD"', '"LocalSDG"'), 'algorithm.solver.kind: got "LocalSDG", expected one of LocalPolyak, LocalSGD, '),
        (('kind = "LocalSGD", ', ""), "algorithm.solver.kind: got nothing, expected one of LocalPolyak, LocalSGD"),
        (("cohort = 3", "cohort = { size = 3 }"), "algorithm.cohort.kind: got nothing, expected one of "),
        (("cohort = 3", 'cohort = { kind = "uniform" }'), "algorithm.cohort.size: got nothing, expected a whole number"),
        (("cohort = 3", "cohort = 2.5"), "algorithm.cohort: got 2.5, expected a table"),
        (("cohort = 3", 'cohort = "all"'), 'algorithm.cohort: got "all", expected a table'),
        (("cohort = 3", "cohort = 6"), "algorithm.cohort: cohort uniform: got 6 clients, expected at most 5"),
        (("steps = 4", "steps = 0"), "algorithm: LocalSGD(steps=0): expected a whole number ≥ 1"),
        (("[run]", '[network]\nkind = "ring"\n[run]'), "network: got a table [network], expected none: SCAFFOLD has a server"),
        (("[run]", "[run]\nreport = ['loss']"), 'run.report: got ["loss"], expected nothing'),
        (("[run]", "[fleet]\nn = 5\n[run]"), "fleet.n: got a number of devices, expected nothing"),
        (("[run]", "[fleet]\nuplod = 5\n[run]"), "fleet.uplod: got an unknown key, expected one of"),
        (("[run]", "[fleet]\ndownload = 'fast'\n[run]"), 'fleet.download: got "fast", expected a number, or a list'),
        (("[run]", "[fleet]\ndropout = [0.1]\n[run]"), "fleet: Fleet dropout: got shape (1,), expected a number or one for each"),
        (("[run]", '[fleet]\navailability = { kind = "dayly" }\n[run]'), "fleet.availability.kind: got \"dayly\", expected one of"),
        (("[run]", "[stop]\nbelow = { objective = 'low' }\n[run]"), "stop.below: got {\"objective\": \"low\"}, expected a table"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key(visits, change, message):
    folder, _ = visits
    assert VISITS.count(change[0]) == 1
    with pytest.raises(tw.experiment.Mistake) as error:
        load(written(folder, VISITS.replace(*change))).run(folder / "run")
    assert message in str(error.value)
    assert not (folder / "run").exists()


def test_peers_have_a_network_and_no_fleet(visits):
    folder, _ = visits
    peers = VISITS[: VISITS.index("[algorithm]")] + '[algorithm]\nname = "NIDS"\n'
    with pytest.raises(tw.experiment.Mistake, match=r"network: got nothing, expected a table \[network\], in which NIDS"):
        load(written(folder, peers))
    with pytest.raises(tw.experiment.Mistake, match=r"fleet: got a table \[fleet\], expected none: NIDS has no server"):
        load(written(folder, peers + '[network]\nkind = "ring"\n[fleet]\n'))


def test_list_has_every_server_algorithm_cohort_rule_and_solver():
    lines = {words[0]: words[1:] for words in map(str.split, call("list").stdout.splitlines()) if words}
    for name in [*tw.server.__all__, *signature.makers(tw.cohort.Cohort), *signature.makers(tw.algorithm.LocalSolver)]:
        assert lines.get(name), name


def test_the_catalogue_finds_without_importing_what_files_may_name():
    from thalweg.cli import catalogue
    from thalweg.experiment import pipelines

    for section, known in (
        ("servers", {name: getattr(tw.server, name) for name in tw.server.__all__}),
        ("cohorts", signature.makers(tw.cohort.Cohort)),
        ("solvers", signature.makers(tw.algorithm.LocalSolver)),
        ("stages", pipelines.builders()),
    ):
        lines = {name: value.__doc__.strip().partition("\n")[0] for name, value in known.items()}
        assert catalogue.SECTIONS[section]() == lines


def test_an_optax_optimizer_and_the_event_driven_engine_are_named_in_a_file(visits):
    folder, _ = visits
    text = VISITS.replace('name = "SCAFFOLD"', 'name = "FedOpt"\nserver_optimizer = { kind = "adam", learning_rate = 0.05 }')
    text = text.replace("every = 50", 'every = 50\nengine = "event-driven"\nbuffer = 2\nstaleness = 0.5').replace("3000", "100")
    result, _ = load(written(folder, text)).run(folder / "run")
    assert result.rounds == 100 and "optimiser" in str(result) and " at 0x" not in str(result)
    assert "2 messages" in result.config["engine"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("every = 50", "every = 50\nbuffer = 2", "run.buffer: got 2, expected nothing"),
        ('name = "SCAFFOLD"', 'name = "FedOpt"\nserver_optimizer = { kind = "adan" }', "nadam"),
    ],
)
def test_mistakes_about_them_name_the_key(visits, old, new, message):
    folder, _ = visits
    with pytest.raises(ValueError, match=message):
        load(written(folder, VISITS.replace(old, new))).run(folder / "run")


PIPELINE = """
[uplink]
kind = "error_feedback"
stage = [{ kind = "top_k", fraction = 0.5 }, { kind = "quantise", bits = 8, block = 4 }]
[[downlink]]
kind = "cast"
"""


def test_a_file_names_stages_and_the_run_is_that_of_solve(visits):
    folder, _ = visits
    experiment = load(written(folder, VISITS + PIPELINE)).with_settings(rounds=20, every=20)
    result, _ = experiment.run(folder / "run")
    m = tw.message
    uplink = m.error_feedback(m.chain(m.top_k(0.5), m.quantise(8, 4)))
    assert {name: table.build() for name, table in experiment.pipelines.items()} == {"uplink": uplink, "downlink": m.cast()}
    up, down = (
        jax.eval_shape(lambda x, s=s: s.encode(s.init(x), x, jax.random.key(0))[1], {"x": result.x}) for s in (uplink, m.cast())
    )
    assert result.ledger.received.sum() == 3 * 20
    assert m.payload_bytes(down) == 4 * sum(leaf.size for leaf in jax.tree.leaves(result.x))
    assert m.payload_bytes(up) < m.payload_bytes(result.x)
    plain = load(written(folder, VISITS)).with_settings(rounds=20, every=20)
    assert plain.hash != experiment.hash
    assert experiment.content == json.loads(json.dumps(experiment.content))


def test_an_interrupted_run_with_memories_resumed_is_the_same(visits):
    folder, _ = visits
    file = written(folder, VISITS + PIPELINE)
    whole, _ = load(file).with_settings(rounds=30, every=10).run(folder / "whole")
    load(file).with_settings(rounds=10, every=10).run(folder / "part")
    assert call("resume", folder / "part", "--rounds", 30).exit_code == 0
    resumed, _ = tw.experiment.RunFolder(folder / "part").read()
    np.testing.assert_array_equal(resumed.x["weights"], whole.x["weights"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[uplink]\nkind = "topk"', 'uplink.kind: got "topk", expected one of'),
        ("[uplink]\nfraction = 0.1", "uplink.kind: got nothing, expected one of"),
        ('[uplink]\nkind = "top_k"', "uplink.fraction: got nothing, expected a number"),
        ('[uplink]\nkind = "top_k"\nfraction = "all"', 'uplink.fraction: got "all", expected a number'),
        ('[uplink]\nkind = "top_k"\nfractoin = 1.0', "(did you mean 'fraction'?)"),
        ('[[uplink]]\nkind = "cast"\n[[uplink]]\nkind = "quantise"\nbits = 3', "uplink[1]: quantise: got bits=3"),
        ('[uplink]\nkind = "rotate"', "uplink.stage: got nothing, expected a table that describes a stage"),
        ('[uplink]\nkind = "ef21"\nstage = { kind = "identity" }', "uplink: ef21: got Identity"),
        ('[uplink]\nkind = "ef21"\nstage = { kind = "signs" }', 'uplink.stage.kind: got "signs", expected one of'),
        ('[link]\nkind = "sign"', "link: got a table [link], expected none: SCAFFOLD has a server"),
    ],
)
def test_mistakes_about_stages_name_the_key(visits, text, message):
    folder, _ = visits
    with pytest.raises(tw.experiment.Mistake) as error:
        load(written(folder, VISITS + text + "\n")).run(folder / "run")
    assert message in str(error.value)


def test_peers_have_a_link(visits):
    folder, _ = visits
    peers = VISITS[: VISITS.index("[algorithm]")] + '[algorithm]\nname = "BEER"\n[network]\nkind = "ring"\n[run]\nrounds = 5\n'
    result, _ = load(written(folder, peers + '[link]\nkind = "top_k"\nfraction = 0.5\n')).run(folder / "run")
    assert float(result.algorithm.consensus_step) == 0.5
    with pytest.raises(tw.experiment.Mistake, match=r"uplink: got a table \[uplink\], expected none: BEER has no server"):
        load(written(folder, peers + '[uplink]\nkind = "sign"\n'))
