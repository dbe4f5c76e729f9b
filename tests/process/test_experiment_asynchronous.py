"""Experiment files of methods without rounds: simulated by `thalweg run`, and as processes by `thalweg up`."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import thalweg as tw
from thalweg.cli.app import app
from thalweg.experiment import Mistake, load

FILE = """
[problem]
kind = "averaging"
values = [1.0, 4.0, 2.0, 7.0]
[network]
kind = "ring"
[network.failures]
loss = 0.2
symmetric = false
[algorithm]
name = "AsynchronousPushSum"
[clocks]
period = [0.004, 0.002, 0.003, 0.005]
latency = 0.001
[run]
rounds = 300
seed = 3
"""


def written(folder, text=FILE):
    (folder / "gossip.toml").write_text(text)
    return folder / "gossip.toml"


def test_a_file_runs_as_solve_does_and_is_resumed(tmp_path):
    asked = load(written(tmp_path))
    result, folder = asked.run(tmp_path / "run", progress=False)
    clocks = tw.Clocks(period=[0.004, 0.002, 0.003, 0.005], latency=0.001)
    network = tw.network.ring(4).with_failures(loss=0.2, symmetric=False)
    same = tw.solve(
        tw.Measurements(np.array([1.0, 4.0, 2.0, 7.0])), tw.AsynchronousPushSum(), network, rounds=300, seed=3,
        engine=tw.EventDriven(clocks=clocks),
    )  # fmt: skip
    np.testing.assert_array_equal(np.ravel(result.agents), np.ravel(same.agents))
    np.testing.assert_allclose(result.x, 3.5, atol=1e-9)
    longer, _ = tw.experiment.reopen(folder.path)
    assert longer.hash == asked.hash
    again, _ = longer.with_settings(rounds=400).run(folder.path, resume=True, progress=False)
    assert again.rounds == 400
    assert load(written(tmp_path, FILE.replace("0.002", "0.006"))).hash != asked.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[clocks]", '[link]\nkind = "cast"\ndtype = "float32"\n[clocks]'), "link: got a table .*has no rounds"),
        (("AsynchronousPushSum", "PushSum"), "clocks: got a table .*PushSum goes in rounds"),
        (("seed = 3", 'engine = "sharded"'), "run.engine: got .sharded., expected nothing"),
        (("seed = 3", "buffer = 2"), "run.buffer: got 2, expected nothing"),
        (("0.002", "-0.002"), "clocks: .*expected seconds > 0"),
        (("latency", "latnecy"), "latnecy"),
        (("symmetric = false", "symmetric = true"), "with_failures.loss=0.2, symmetric=False"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_mistake_in_the_file(change, message, tmp_path):
    with pytest.raises((Mistake, ValueError), match=message):
        load(written(tmp_path, FILE.replace(*change))).run(tmp_path / "run", progress=False)


@pytest.mark.slow
def test_the_same_file_as_processes(tmp_path, monkeypatch):
    """Losses of the file are for simulations; each process wakes by its own period, so many times at least."""
    pytest.importorskip("zenoh")
    monkeypatch.chdir(tmp_path)
    written(tmp_path)
    shown = CliRunner().invoke(app, ["up", "gossip.toml", "--out", "runs"], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    answers = [json.loads(path.read_text()) for path in tmp_path.rglob("answer.json")]
    assert len(answers) == 4
    for answer in answers:
        assert answer["outcome"] == "ROUND_LIMIT"
        assert answer["rounds"] >= 300
        assert any("really lost" in text for text in answer["warnings"])
    for path in tmp_path.rglob("answer.npz"):
        with np.load(path) as found:
            np.testing.assert_allclose(found[found.files[0]], 3.5, atol=1e-9)
