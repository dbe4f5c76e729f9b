"""Experiment files that name an aggregator, a mixer or an adversary."""

import numpy as np
import pytest
from typer.testing import CliRunner

import thalweg as tw
from thalweg.cli import catalogue
from thalweg.cli.app import app
from thalweg.experiment import load, signature
from thalweg.experiment.mistakes import Mistake

SERVER = """
[problem]
kind = "logistic_regression"
data = "heart_disease"
l2 = 0.1
[algorithm]
name = "FedAvg"
solver = { kind = "LocalSGD", learning_rate = 0.1, steps = 2 }
[run]
rounds = 3
reference = false
[aggregate]
kind = "nearest_neighbour_mixing"
f = 1
rule = { kind = "trimmed_mean", f = 0.25 }
[adversary]
kind = "sign_flip"
agents = [2]
scale = 3.0
"""
PEERS = """
[problem]
kind = "logistic_regression"
data = "heart_disease"
l2 = 0.1
[network]
kind = "complete"
[algorithm]
name = "DGD"
step_size = 0.1
[run]
rounds = 3
reference = false
[aggregate]
kind = "clipped_gossip"
radius = 0.5
[adversary]
kind = "zero"
agents = [0]
"""


@pytest.mark.filterwarnings("ignore:.*counts every client once")
@pytest.mark.parametrize(
    ("text", "aggregate", "adversary"),
    [
        (SERVER, tw.message.nearest_neighbour_mixing(1, tw.message.trimmed_mean(0.25)), tw.adversary.sign_flip([2], 3.0)),
        (PEERS, tw.message.clipped_gossip(0.5), tw.adversary.zero([0])),
    ],
)
def test_a_file_names_what_solve_is_given(text, aggregate, adversary, tmp_path):
    (tmp_path / "a.toml").write_text(text)
    experiment = load(tmp_path / "a.toml")
    assert repr(experiment.aggregate.build()) == repr(aggregate)
    assert repr(experiment.adversary.build()) == repr(adversary)
    result, folder = experiment.run(tmp_path / "run")
    assert "who are honest" in str(result)
    assert type(aggregate).__name__ in result.config["aggregate"]
    again, _ = tw.experiment.reopen(folder.path)
    assert again.hash == experiment.hash
    assert np.isfinite(result.history["objective"]).all()


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (SERVER, '"nearest_neighbour_mixing"', '"nearest_neighbor_mixing"', "did you mean 'nearest_neighbour_mixing'"),
        (SERVER, 'kind = "trimmed_mean", f', 'kind = "trimmed_mean", share', "aggregate.rule.share"),
        (SERVER, "agents = [2]", "agents = 2", "adversary.agents"),
        (SERVER, 'kind = "sign_flip"', "", "adversary.kind: got nothing"),
        (PEERS, '"clipped_gossip"', '"krum"', "aggregate.kind"),
    ],
)
def test_mistakes_name_their_key(text, old, new, message, tmp_path):
    assert old in text
    (tmp_path / "a.toml").write_text(text.replace(old, new))
    with pytest.raises(Mistake, match=message.replace(".", r"\.")):
        load(tmp_path / "a.toml")


def test_what_an_aggregator_refuses_is_a_mistake_in_its_table(tmp_path):
    (tmp_path / "a.toml").write_text(SERVER.replace("f = 0.25", "f = 0.75"))
    with pytest.raises(Mistake, match="aggregate: trimmed_mean"):
        load(tmp_path / "a.toml").run(tmp_path / "run")


def test_the_list_names_what_files_may_name():
    lines = {
        words[0]
        for words in map(str.split, CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"}).stdout.splitlines())
        if words
    }
    for section, kind in (
        ("aggregators", tw.message.Aggregator),
        ("mixers", tw.message.Mixer),
        ("adversaries", tw.adversary.Adversary),
    ):
        known = signature.makers(kind)
        assert set(known) <= lines
        assert catalogue.SECTIONS[section]() == {name: value.__doc__.partition("\n")[0] for name, value in known.items()}


PRIVATE = """
[problem]
kind = "logistic_regression"
data = "heart_disease"
weights = "uniform"
[algorithm]
name = "FedAvg"
solver = { kind = "PrivateSGD", learning_rate = 0.5, noise_multiplier = 2.0, clip = 1.0, sampling_rate = 0.2 }
[run]
rounds = 40
reference = false
[privacy]
epsilon = 2.0
delta = 1e-4
"""


@pytest.mark.slow
def test_a_budget_in_a_file_ends_its_run(tmp_path):
    pytest.importorskip("dp_accounting")
    (tmp_path / "a.toml").write_text(PRIVATE)
    result, _ = load(tmp_path / "a.toml").run(tmp_path / "run")
    assert result.outcome is tw.Outcome.PRIVACY
    assert 0 < result.rounds < 40
    assert result.ledger.epsilon[-1] <= 2.0
    (tmp_path / "b.toml").write_text(PRIVATE.replace("epsilon", "epsillon"))
    with pytest.raises(Mistake, match="did you mean 'epsilon'"):
        load(tmp_path / "b.toml")
    (tmp_path / "b.toml").write_text(PRIVATE.replace("delta = 1e-4", "delta = 2.0"))
    with pytest.raises(Mistake, match=r"privacy: got delta=2\.0"):
        load(tmp_path / "b.toml").run(tmp_path / "other")
