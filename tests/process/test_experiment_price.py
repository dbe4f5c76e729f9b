"""Experiment files that state coupled problems: what can be said, what runs, what is refused."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import thalweg as tw
from thalweg.cli.app import app
from thalweg.experiment import load, signature

FACTORIES = """
[problem]
kind = "allocation"
data = "factories.csv"
agent = "factory"
target = "wish"
curvature = "slope"
high = 35
total = 70
row_names = ["bread"]
[algorithm]
name = "DualAscent"
[stop]
progress = 1e-10
agreement = 1e-10
[run]
rounds = 500
every = 1
"""
INLINE = """
[problem]
kind = "allocation"
names = ["old", "new", "small"]
target = [[0], [0], [0]]
curvature = [1, 2.0, 4.0]
high = 35.0
total = [70.0]
row_names = ["bread"]
[algorithm]
name = "DualAscent"
"""
BIDS = """
[problem]
kind = "bids"
data = "bids.csv"
agent = "seller"
price = "price"
width = "width"
row = "hour"
total = { noon = 5, night = 2 }
[algorithm]
name = "ExchangeADMM"
penalty = [0.5, 0.5]
[stop]
progress = 1e-7
agreement = 1e-7
[run]
rounds = 5000
"""
FLOWS = """
[problem]
kind = "network-utility"
routes = [["A-B", "B-C"], ["A-B"], ["B-C"]]
capacity = { A-B = 1.0, B-C = 2.0 }
[algorithm]
name = "AcceleratedDualAscent"
[stop]
progress = 1e-9
agreement = 1e-9
[run]
rounds = 5000
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "factories.csv").write_text("factory,wish,slope\nold,0,1\nnew,0,2\nsmall,0,4\n")
    (tmp_path / "bids.csv").write_text(
        "seller,hour,price,width\na,noon,1,2\na,noon,4,2\na,night,1,1\nb,noon,2,2\nb,night,3,2\nb,noon,5,1\n"
    )
    (tmp_path / "flows.csv").write_text("who,worth,path\nlong,1,A-B B-C\nfirst,1,A-B\nsecond,1,B-C\n")
    return tmp_path


def written(folder, text, name="a.toml"):
    (folder / name).write_text(text)
    return folder / name


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def test_a_run_from_a_file_clears_the_market(folder):
    """x_i = min(−λ/a_i, 35): at λ = −140/3 the old factory is full, and 35 + 70/3 + 35/3 = 70."""
    done = call("run", written(folder, FACTORIES), "--out", folder / "run")
    assert done.exit_code == 0, done.output
    assert "converged" in done.stdout
    assert "certificate" in done.stdout
    result, _ = tw.experiment.RunFolder(folder / "run").read()
    np.testing.assert_allclose(result.x[:, 0], [35, 70 / 3, 35 / 3], atol=1e-7)
    np.testing.assert_allclose(result.price, [-140 / 3], rtol=1e-9)
    assert result.certificate.holds(1e-9, 1e-9)
    assert result.names == ("old", "new", "small")
    assert "gap" not in result.history.scalars
    before = (folder / "run" / "report.html").read_text()
    assert call("report", folder / "run").exit_code == 0
    assert (folder / "run" / "report.html").read_text() == before


def test_numbers_may_stand_in_the_file(folder):
    stated, inline = (load(written(folder, text)).problem.build(folder, np.float64) for text in (FACTORIES, INLINE))
    for key, array in stated.problem.pieces.data.items():
        np.testing.assert_array_equal(array, inline.problem.pieces.data[key])
    assert stated.problem.names == inline.problem.names
    wide = (
        INLINE.replace("[[0], [0], [0]]", "[[0, 1], [2, 3], [4, 5]]").replace("[70.0]", "[3, 4]").replace('"bread"', '"a", "b"')
    )
    problem = (
        load(written(folder, wide.replace("high = 35.0", 'sense = ["<=", "="]'))).problem.build(folder, np.float64).problem
    )
    assert (problem.m, problem.size) == (2, 2)
    np.testing.assert_array_equal(problem.pieces.data["c"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(problem.coupling.low, [0, -np.inf])


def test_columns_of_a_table_with_a_variable_each(folder):
    (folder / "slots.csv").write_text("house,one,two,most\na,1,2,3\nb,4,5,6\n")
    text = '[problem]\nkind = "allocation"\ndata = "slots.csv"\nagent = "house"\ntarget = ["one", "two"]\nhigh = "most"\n'
    text += 'low = 0\ntotal = [1, 2]\n[algorithm]\nname = "DualAscent"\n'
    data = load(written(folder, text)).problem.build(folder, np.float64).problem.pieces.data
    np.testing.assert_array_equal(data["c"], [[1, 2], [4, 5]])
    np.testing.assert_array_equal(data["high"], [[3], [6]])


def test_bids_from_a_file(folder):
    """Noon: a 2 at 1, b 2 at 2, then 1 of a's 2 at 4. Night: a 1 at 1, then 1 of b's 2 at 3."""
    result, _ = load(written(folder, BIDS)).run(folder / "run")
    assert result.converged
    np.testing.assert_allclose(result.x, [[3, 1], [2, 1]], atol=1e-5)
    np.testing.assert_allclose(result.price, [-4, -3], atol=1e-5)
    inline = load(written(folder, """
[problem]
kind = "bids"
names = ["a", "b"]
prices = [[[1, 4], [1, 1]], [[2, 5], [3, 3]]]
widths = [[[2, 2], [1, 0]], [[2, 1], [2, 0]]]
total = { noon = 5, night = 2 }
[algorithm]
name = "ExchangeADMM"
""")).problem.build(folder, np.float64).problem  # fmt: skip
    stated = load(written(folder, BIDS)).problem.build(folder, np.float64).problem
    for key, array in stated.pieces.data.items():
        np.testing.assert_array_equal(array, inline.pieces.data[key])
    assert stated.row_names == inline.row_names == ("noon", "night")


def test_flows_from_a_file(folder):
    """Two links of capacities 1 and 2, one flow over both: 1/x_0 = 1/(1 − x_0) + 1/(2 − x_0), so x_0 = 1 − 1/√3."""
    result, _ = load(written(folder, FLOWS)).run(folder / "run")
    x = 1 - 3**-0.5
    np.testing.assert_allclose(result.x, [x, 1 - x, 2 - x], atol=1e-7)
    columns = 'data = "flows.csv"\nagent = "who"\nroutes = "path"\nutility = "worth"'
    text = FLOWS.replace('routes = [["A-B", "B-C"], ["A-B"], ["B-C"]]', columns)
    problem = load(written(folder, text)).problem.build(folder, np.float64).problem
    assert problem.names == ("long", "first", "second")
    np.testing.assert_array_equal(problem.pieces.rows, [[0, 1], [0, -1], [1, -1]])
    numbered = FLOWS.replace('[["A-B", "B-C"], ["A-B"], ["B-C"]]', "[[0, 1], [0], [1]]").replace(
        "{ A-B = 1.0, B-C = 2.0 }", "[1, 2]"
    )
    np.testing.assert_array_equal(
        load(written(folder, numbered)).problem.build(folder, np.float64).problem.pieces.rows, problem.pieces.rows
    )


def test_an_interrupted_run_resumed_is_the_same(folder):
    file = written(folder, FACTORIES.replace('"DualAscent"', '"DualAscent"\ncohort = 2'))
    whole, _ = load(file).with_settings(rounds=40).run(folder / "whole")
    load(file).with_settings(rounds=15).run(folder / "part")
    assert call("resume", folder / "part", "--rounds", 40).exit_code == 0
    resumed, _ = tw.experiment.RunFolder(folder / "part").read()
    np.testing.assert_array_equal(resumed.x, whole.x)
    np.testing.assert_array_equal(resumed.price, whole.price)
    assert resumed.certificate.dual == whole.certificate.dual


def test_a_reference_is_asked_for(folder):
    pytest.importorskip("clarabel")
    file = written(folder, FACTORIES.replace("every = 1", "every = 1\nreference = true"))
    result, _ = load(file).run(folder / "run")
    assert abs(result.history["gap"][-1]) < 1e-6


def test_the_hash_knows_the_numbers_and_not_how_they_are_said(folder):
    first = load(written(folder, FLOWS)).hash
    assert load(written(folder, FLOWS.replace("network-utility", "network_utility"))).hash == first
    assert load(written(folder, FLOWS + "reference = false\n")).hash == first
    assert load(written(folder, FLOWS + "reference = true\n")).hash != first
    assert load(written(folder, FLOWS.replace("2.0", "2.5"))).hash != first
    first = load(written(folder, FACTORIES)).hash
    (folder / "factories.csv").write_text("factory,wish,slope\nold,0,1\nnew,0,2\nsmall,0,5\n")
    assert load(written(folder, FACTORIES)).hash != first
    assert json.loads(json.dumps(load(written(folder, BIDS)).content)) == load(written(folder, BIDS)).content


@pytest.mark.parametrize("name", sorted(tw.price.__all__))
def test_every_price_algorithm_can_be_written_in_a_file(name):
    target = getattr(tw.price, name)
    assert set(signature.kinds(target)) == set(signature.parameters(target))
    rows = {"step_size", "penalty"} & set(signature.kinds(target))
    cohort = {"cohort": 2} if issubclass(target, tw.algorithm.ServerAlgorithm) else {}
    read = signature.read_table(target, {key: [0.5, 2] for key in rows} | cohort, "algorithm")
    made = target(**signature.arguments(target, read))
    for key in rows:  # one number per row, or per agent
        given = getattr(made, key)
        np.testing.assert_array_equal(getattr(given, "values", given), [0.5, 2.0])
        assert getattr(target(**signature.arguments(target, signature.read_table(target, {key: 3}, "algorithm"))), key) == 3.0


def test_the_list_has_them():
    done = call("list", "prices")
    assert all(name in done.stdout for name in tw.price.__all__)
    assert all(name in call("list", "problems").stdout for name in ("allocation", "bids", "network_utility"))


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (FACTORIES, ('"wish"', '"wsh"'), '"wsh", expected one of factory, wish, slope (did you mean'),
        (FACTORIES, ("target", "traget"), "problem.traget: got an unknown key, expected one of "),
        (FACTORIES, ("target", "traget"), "(did you mean 'target'?)"),
        (FACTORIES, ('target = "wish"\n', ""), "problem.target: got nothing, expected what every agent would like"),
        (FACTORIES, ("total = 70\n", ""), "problem.total: got nothing, expected a number, or a list"),
        (FACTORIES, ("total = 70", "total = [70, 1]"), "problem.total: got 2 numbers, expected 1"),
        (FACTORIES, ("total = 70", "total = 7000"), "total of 'bread': got 7000, and the agents together can only reach"),
        (FACTORIES, ("high = 35", "high = [35, 35]"), "problem.high: got 2 entries with 1 numbers each, expected a number for all"),
        (FACTORIES, ("high = 35", "high = [[35], [35, 1]]"), "problem.high: got [[35.0], [35.0, 1.0]], expected lists of one"),
        (FACTORIES, ("high = 35", 'high = "factory"'), "column 'factory' of factories.csv, expected a number"),
        (FACTORIES, ("high = 35", "sense = '=<'"), 'problem.sense: got "=<", expected "=", "<=" or ">="'),
        (FACTORIES, ("high = 35", "low = 36\nhigh = 35"), "problem: allocation: got low > high"),
        (FACTORIES, ('"factories.csv"', '"factorys.csv"'), 'problem.data: got "factorys.csv", expected a CSV file; there'),
        (FACTORIES, ('agent = "factory"', 'names = ["a"]'), 'problem.names: got ["a"], expected nothing with data'),
        (FACTORIES, ('data = "factories.csv"\n', ""), 'problem.agent: got "factory", expected nothing without data'),
        (INLINE, ("[[0], [0], [0]]", '"wish"'), 'problem.target: got "wish", expected numbers; a column is read with data'),
        (INLINE, ("[[0], [0], [0]]", "0"), "problem.target: got 0, expected a list with one entry per agent"),
        (INLINE, ('"DualAscent"', '"DualAscend"'), "(did you mean 'DualAscent'?)"),
        (INLINE, ('"DualAscent"', '"FedAvg"'), 'algorithm.name: got "FedAvg", expected one of AcceleratedDualAscent, '),
        (INLINE, ('"DualAscent"', '"NIDS"\n[network]\nkind = "ring"'), 'algorithm.name: got "NIDS", expected one of '),
        (INLINE, ('"DualAscent"', '"DualAscent"\n[network]\nkind = "ring"'), "expected none: DualAscent has a price-setter"),
        (INLINE, ('"DualAscent"', '"DualAscent"\ncohort = 4'), "algorithm.cohort: cohort uniform: got 4 clients, expected at most"),
        (INLINE, ('"DualAscent"', '"DualAscent"\nstep_size = [1, "a"]'), "algorithm.step_size: got [1, \"a\"], expected a"),
        (BIDS, ('row = "hour"\n', ""), "problem.row: got nothing, expected a column that says to which of 2 rows"),
        (BIDS, ("night = 2", "nigth = 2"), "problem.row: got \"night\", expected one of noon, nigth (did you mean 'nigth'?)"),
        (BIDS, ('price = "price"\n', ""), "problem.price: got nothing, expected a column of the CSV file: seller, hour"),
        (BIDS, ('data = "bids.csv"\n', ""), "problem: expected either prices = [ … ] and widths = [ … ], or data"),
        (FLOWS, ('["A-B"]', '["A-C"]'), "problem.routes: got \"A-C\", expected one of A-B, B-C (did you mean"),
        (FLOWS, ('["A-B"]', "[]"), "problem: network_utility: utilities and capacities must be > 0, and every flow needs a link"),
        (FLOWS, ("routes", "utility = [1, 2]\nroutes"), "problem.utility: got 2 numbers, expected one, or one per flow: 3"),
        (FLOWS, ("{ A-B = 1.0, B-C = 2.0 }", "[1, 2]"), 'problem.routes: got "A-B", expected numbers of links, or names'),
        (FLOWS, ("network-utility", "network-utilty"), "(did you mean 'network_utility'?)"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key(folder, text, change, message):
    assert text.count(change[0]) == 1
    with pytest.raises((tw.experiment.Mistake, ValueError)) as error:
        load(written(folder, text.replace(*change))).run(folder / "run")
    assert message in str(error.value)
    assert not (folder / "run").exists()


def test_price_algorithms_are_for_coupled_problems(folder):
    text = '[problem]\nkind = "averaging"\nvalues = [1, 2]\n[algorithm]\nname = "DualAscent"\n'
    with pytest.raises(
        tw.experiment.Mistake, match=r'problem.kind: got "averaging", expected one of allocation, bids, network_u'
    ):
        load(written(folder, text))
