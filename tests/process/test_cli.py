"""The command line: in this process where it can be, in real processes where starting, signals and exit codes matter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import thalweg
from thalweg._extras import require
from thalweg.cli.app import app

SOURCE = Path(thalweg.__file__).parents[1]
EXAMPLES = Path(__file__).parents[2] / "examples"

GOOD = """
[problem]
kind = "logistic_regression"
data = "heart_disease"
[network]
kind = "ring"
[algorithm]
name = "GradientTracking"
"""

# Slow on purpose: α is so small that nothing converges; lost messages make every round draw random numbers.
LONG = """
[problem]
kind = "averaging"
values = [1.0, 2.5, -3.0, 7.0, 0.125]
[network]
kind = "path"
failures = { loss = 0.3 }
[algorithm]
name = "GradientTracking"
step_size = 1e-6
[run]
rounds = 1_000_000_000
every = 1000
reference = false
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "thalweg.cli", *arguments]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return kept | {"PYTHONPATH": str(SOURCE), "COLUMNS": "200"}


def process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment(), timeout=120)


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_help_and_version_do_not_import_jax(tmp_path):
    code = "import sys; sys.argv = ['thalweg', {0!r}]\ntry: import thalweg.cli; thalweg.cli.main()\n"
    code += "finally: print('jax' in sys.modules, file=sys.stderr)"
    for option, expected in (("--help", "resume"), ("--version", f"thalweg {thalweg.__version__}\n")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(option)], capture_output=True, text=True, cwd=tmp_path, env=environment()
        )
        assert expected in done.stdout
        assert done.stderr == "False\n"


def test_the_installed_entry_point_exists():
    import tomllib

    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["thalweg"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_list_has_every_export_with_a_line():
    done = invoke("list")
    assert done.exit_code == 0
    lines = {words[0]: words[1:] for words in map(str.split, done.stdout.splitlines()) if words}
    import inspect

    from thalweg.algorithm import PeerAlgorithm

    algorithms = [n for n in thalweg.algorithms.__all__ if issubclass(getattr(thalweg.algorithms, n), PeerAlgorithm)]
    builders = [n for n in thalweg.network.__all__ if inspect.isfunction(getattr(thalweg.network, n))]
    for name in [*algorithms, *builders, "logistic", "heart_disease", "simulated", "sharded", "debug", "averaging"]:
        assert lines.get(name), name


def test_list_says_what_the_docstrings_say():
    """The catalogue reads source without importing it; here both can be compared."""
    from thalweg.cli import catalogue

    for section, module in (("algorithms", thalweg.algorithms), ("networks", thalweg.network), ("losses", thalweg.losses)):
        for name, line in catalogue.SECTIONS[section]().items():
            assert line == getattr(module, name).__doc__.strip().partition("\n")[0]


def test_list_of_one_section_and_of_none():
    done = invoke("list", "engines")
    assert "simulated" in done.stdout
    assert "GradientTracking" not in done.stdout
    assert invoke("list", "engine").exit_code == 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GOOD + "[netwrok]\nx = 1", ["netwrok:", "unknown table", "problem, network, algorithm, stop, run", "'network'?"]),
        (GOOD.replace("GradientTracking", "GradientTraking"), ['algorithm.name: got "GradientTraking"', "'GradientTracking'?"]),
        (GOOD.replace('"ring"', '"rnig"'), ['network.kind: got "rnig"', "erdos_renyi", "(did you mean 'ring'?)"]),
        (GOOD.replace("logistic_r", "logistic_R"), ['problem.kind: got "logistic_Regression"', "'logistic_regression'?"]),
        (GOOD + "step_siez = 0.1", ["algorithm.step_siez: got an unknown key", "step_size, momentum", "'step_size'?"]),
        (GOOD + 'step_size = "0.1"', ['algorithm.step_size: got "0.1", expected a number']),
        (GOOD + "step_size = true", ["algorithm.step_size: got true, expected a number"]),
        (GOOD + 'order = "act"', ['algorithm.order: got "act", expected one of "atc", "diging"', "'atc'?"]),
        (GOOD.replace('"ring"', '"ring"\nm = 4'), ["network.m: got an unknown key", "kind, failures, n, directed, weights"]),
        (GOOD.replace('"ring"', '"ring"\nn = 4.5'), ["network.n: got 4.5, expected a whole number"]),
        (GOOD.replace('"ring"', '"ring"\nn = 5'), ["network: ", "4 agents", "network 5", "n=4"]),
        (GOOD + "step_size = -1", ["algorithm: GradientTracking(step_size=-1.0)", "a positive number"]),
        (GOOD.replace('"ring"', '"geometric"'), ["network.seed: got nothing, expected a whole number"]),
        (GOOD.replace('"ring"', '"ring"\nweights = "metro"'), ["network: unknown weights 'metro'", "lazy_metropolis"]),
        (GOOD.replace('"ring"', '"ring"\nfailures = { los = 0.1 }'), ["network.failures.los", "unknown key", "'loss'?"]),
        (GOOD.replace('"ring"', '"ring"\nfailures = { loss = 2 }'), ["network.failures: loss must lie in [0, 1)"]),
        (GOOD.replace('"ring"', '"periodic"\nnetworks = [{ kind = "sta" }]'), ["network.networks[0].kind", "'star'?"]),
        (GOOD.replace("heart_disease", "heart_diseases"), ['problem.data: got "heart_diseases"', "'heart_disease'?"]),
        (GOOD.replace("heart_disease", "none.csv"), ['problem.data: got "none.csv"', "there is none at"]),
        (GOOD.replace("data =", "l2 = -1\ndata ="), ["problem.l2: got -1, expected a number ≥ 0"]),
        (GOOD.replace("data =", "label = 'num'\ndata ="), ['problem.label: got "num", expected nothing', "'heart_disease'"]),
        (GOOD.replace("data =", "dat ="), ["problem.dat: got an unknown key", "'data'?"]),
        (GOOD + "[stop]\nprogres = 1", ["stop.progres: got an unknown key", "'progress'?"]),
        (GOOD + "[stop]\nprogress = -1", ["stop: Stop(progress=-1.0): expected a positive tolerance"]),
        (GOOD + '[run]\nengine = "simulatd"', ['run.engine: got "simulatd"', "sharded", "'simulated'?"]),
        (GOOD + '[run]\ndtype = "float46"', ['run.dtype: got "float46"', "'float64'?"]),
        (GOOD + "[run", ["a line that is not TOML"]),
        ("[network]\nkind = 'ring'", ["problem: got nothing, expected a table [problem]"]),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path, text, parts):
    file, out = tmp_path / "experiment.toml", tmp_path / "out"
    file.write_text(text)
    done = invoke("run", str(file), "--out", str(out))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    assert not out.exists()


def test_other_mistakes_are_one_line_too(tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text(GOOD)
    for arguments, part in (
        (["run", str(tmp_path / "none.toml")], "there is no experiment file"),
        (["run", str(file), "--engine", "debgu"], "(did you mean 'debug'?)"),
        (["run", str(file), "--rounds", "-1"], "run.rounds: got -1"),
        (["report", str(tmp_path)], "there is no result in"),
        (["resume", str(tmp_path)], "there is no run of an experiment file in"),
    ):
        done = invoke(*arguments)
        assert done.exit_code == 2
        assert part in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback():
    """Only what Thalweg raises is taken for the user's mistake."""
    from thalweg.cli.console import mistakes

    with pytest.raises(ValueError, match="invalid literal"), mistakes():
        int("x")
    with pytest.raises(ImportError, match="Nobody"), mistakes():
        exec("from json import Nobody", {"__name__": "thalweg.broken"})
    with pytest.raises(typer.Exit), mistakes():
        require("no_such_package", "tables")


def test_an_interrupted_run_is_continued_to_the_same_bits(tmp_path):
    (tmp_path / "long.toml").write_text(LONG)
    running = subprocess.Popen(
        command("run", "long.toml", "--out", "cut"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    assert running.stderr.readline().startswith("round 1,000, objective ")
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    done = json.loads((tmp_path / "cut" / "run.json").read_text())["round"]
    assert err.splitlines()[-1] == f"error: stopped by hand after round {done}; `thalweg resume cut` continues it"
    assert "interrupted" in out
    assert (tmp_path / "cut" / "report.html").exists()

    last = str(done + 20_000)
    whole = subprocess.Popen(
        command("run", "long.toml", "--out", "whole", "--rounds", last),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    resumed = process("resume", "cut", "--rounds", last, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    _, err = whole.communicate(timeout=60)
    assert whole.returncode == 0, err
    with np.load(tmp_path / "cut" / "result.npz") as cut, np.load(tmp_path / "whole" / "result.npz") as never_cut:
        assert set(cut.files) == set(never_cut.files)
        for name in cut.files:
            assert cut[name].tobytes() == never_cut[name].tobytes(), name
    assert json.loads((tmp_path / "cut" / "result.json").read_text())["rounds"] == int(last)


def test_a_broken_run_exits_with_one(tmp_path):
    file = tmp_path / "wild.toml"
    file.write_text(LONG.replace("1e-6", "1e3").replace("1_000_000_000", "1000").replace("every = 1000", "every = 10"))
    done = invoke("run", str(file), "--out", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "error: diverged" in done.stderr
    assert "above the provable bound" in done.stdout
