"""The demo: four hospitals, one model, no record leaving a hospital."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from typer.testing import CliRunner

import thalweg as tw
from thalweg.apps import hearts
from thalweg.cli.app import app

L2 = 0.03


def fit(examples, weights):
    """(weights [d], bias) minimising Σ_i w_i mean log-loss + ½·L2·(‖weights‖² + bias²), by SciPy."""
    x = np.concatenate([np.hstack([features, np.ones((len(labels), 1))]) for features, labels in examples])
    y = np.concatenate([labels for _, labels in examples])
    share = np.concatenate([np.full(len(labels), w / len(labels)) for (_, labels), w in zip(examples, weights, strict=True)])

    def objective(z):
        margin = x @ z
        value = share @ (np.logaddexp(margin, 0) - y * margin) + 0.5 * L2 * z @ z
        return value, x.T @ (share * (1 / (1 + np.exp(-margin)) - y)) + L2 * z

    def hessian(z):
        p = 1 / (1 + np.exp(-x @ z))
        return (x * (share * p * (1 - p))[:, None]).T @ x + L2 * np.eye(x.shape[1])

    z = scipy.optimize.minimize(
        objective, np.zeros(x.shape[1]), jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-12}
    ).x
    return z[:-1], z[-1]


def pairs_won(scores, labels):
    """AUC by its definition."""
    gap = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return np.mean((gap > 0) + 0.5 * (gap == 0))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demo as the command runs it, and the study that it found."""
    found, out = [], tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        study = hearts.study
        patch.setattr(hearts, "study", lambda **options: found.append(study(**options)) or found[0])
        done = CliRunner().invoke(app, ["demo", "--out", str(out), "--no-open"], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return found[0], done, out


def test_the_ring_finds_the_model_of_the_pooled_records(shown):
    study, _, _ = shown
    assert study.result.converged
    counts = np.array([len(labels) for _, labels in study.data.train])
    weights, bias = fit(study.data.train, counts / counts.sum())
    np.testing.assert_allclose(study.pooled.x["weights"], weights, atol=1e-9)
    for i in range(4):
        off = np.append(study.result.agents["weights"][i] - weights, study.result.agents["bias"][i] - bias)
        assert np.linalg.norm(off) < 1e-6
    assert study.result.history["consensus_error"][-1] < 1e-9


def test_alone_is_what_each_hospital_finds_by_itself(shown):
    study, _, _ = shown
    for model, examples in zip(study.alone, study.data.train, strict=True):
        weights, bias = fit([examples], [1.0])
        np.testing.assert_allclose(model["weights"], weights, atol=1e-8)
        np.testing.assert_allclose(model["bias"], bias, atol=1e-8)


def test_only_two_vectors_leave_a_hospital_whatever_its_records(shown):
    """Each round x and y, 22 weights and a bias in float64, to each of two neighbours."""
    study, _, _ = shown
    per_round = 2 * 2 * 23 * 8
    np.testing.assert_array_equal(study.result.ledger.bytes, np.full(4, per_round * study.result.rounds))


def test_the_table_has_the_scores_of_the_models(shown):
    study, _, _ = shown
    for i, row in enumerate(study.hospitals().rows):
        features, labels = study.data.test[i]
        assert row[0] == study.data.names[i]
        assert row[1:3] == (len(study.data.train[i][1]), len(labels))
        for column, model in ((3, study.alone[i]), (4, study.result.x), (5, study.pooled.x)):
            scores = features @ np.asarray(model["weights"]) + float(model["bias"])
            assert row[column] == pytest.approx(pairs_won(scores, labels), abs=1e-12)


def test_together_equals_pooled_and_helps_where_a_hospital_is_weak(shown):
    """Switzerland alone has 87 training records, nearly all ill."""
    study, _, _ = shown
    rows = {row[0]: row for row in study.hospitals().rows}
    assert all(abs(row[4] - row[5]) < 1e-3 for row in rows.values())
    assert rows["switzerland"][4] > rows["switzerland"][3] + 0.05


def test_the_terminal_shows_all_that_was_promised(shown):
    study, done, out = shown
    for word in ("cleveland", "hungary", "switzerland", "va", "AUC alone", "AUC together", "AUC pooled", "sent", "rounds"):
        assert word in done.stdout
    for word in (
        "consensus error",
        "distance to the central optimum",
        f"converged: {study.result.reason}",
        f"{out}/report.html",
    ):
        assert word in done.stdout
    assert "no record leaving a hospital" in " ".join(done.stdout.split())
    assert "training over a ring" in done.stderr


def test_the_report_stands_by_itself(shown):
    study, _, out = shown
    page = (out / "report.html").read_text()
    assert "Four hospitals" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    stored, tables = tw.experiment.RunFolder(out).read()
    np.testing.assert_array_equal(stored.x["weights"], study.result.x["weights"])
    assert [table.title for table in tables] == ["Four hospitals", "The run"]


@pytest.mark.slow
def test_it_takes_less_than_fifteen_seconds(tmp_path):
    """Imports and compilation included. Counted in processor time, which the clock of an idle machine stays below: the demo
    waits for nothing, and a busy machine does not fail the test."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    source = str(Path(tw.__file__).parents[1])
    command = [sys.executable, "-m", "thalweg.cli", "demo", "--no-open"]
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": source, "PATH": ""}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15
