"""Trackers: each record once, in order, also when a run is cut in two; packages that are absent; trackers that break."""

import json
import sys
import types

import numpy as np
import pytest

import thalweg as tw
from thalweg.engine.tracking import checked_trackers

trackers = tw.trackers


def problem():
    A, b = np.stack([np.eye(2) * (1 + i) for i in range(4)]), np.random.default_rng(0).standard_normal((4, 2))
    return tw.quadratic(A, b)


def solved(kind, **options):
    method = (tw.FedAvg(),) if kind == "server" else (tw.GradientTracking(), tw.network.ring(4))
    return tw.solve(problem(), *method, **({"rounds": 20, "every": 3} | options))


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_logged(found, history):
    assert [row["round"] for row in found] == history["round"].tolist()
    for name, column in history.scalars.items():
        assert [np.nan if row[name] is None else row[name] for row in found] == pytest.approx(column.tolist(), nan_ok=True)


@pytest.mark.parametrize("kind", ["server", "peers"])
def test_json_lines_are_the_history(kind, tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    result = solved(kind, trackers=[trackers.JsonLines(path)])
    first, *records, last = rows(path)
    assert first["config"]["seed"] == 0
    assert first["config"]["resumed_at"] == 0
    assert len(first["config"]["fingerprint"]) == 64
    assert_logged(records, result.history)
    assert last == {"outcome": "round limit", "reason": "all 20 rounds done", "rounds": 20}


@pytest.mark.parametrize("kind", ["server", "peers"])
@pytest.mark.parametrize("cut", [12, 10, 20])
def test_a_run_in_two_parts_is_logged_once(kind, cut, tmp_path):
    """Round 10 is no regular record: the history gives it up when the run goes on, and so does the file."""
    path, folder = tmp_path / "run.jsonl", tmp_path / "run"
    solved(kind, rounds=cut, checkpoint=folder, trackers=[trackers.JsonLines(path)])
    with open(path, "a") as file:  # a process that was killed had got further than its checkpoint
        file.write('{"round": 60, "objective": 1.0}\n{"round": 63, "obj')
    result = solved(kind, checkpoint=folder, resume=True, trackers=[trackers.JsonLines(path)])
    first, *records, last = rows(path)
    assert "config" in first
    assert_logged(records, result.history)
    assert last["rounds"] == 20


def test_a_new_run_writes_over_no_file(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text("mine\n")
    with pytest.raises(ValueError, match="expected a new one"):
        solved("server", trackers=[trackers.JsonLines(path)])
    assert path.read_text() == "mine\n"


@pytest.mark.parametrize("wrong", [trackers.JsonLines("x"), [trackers.JsonLines], [print], "x"])
def test_what_is_no_tracker(wrong):
    with pytest.raises(TypeError, match=r"solve: got .*JsonLines"):
        checked_trackers(wrong)
    with pytest.raises(TypeError, match="trackers"):
        solved("server", trackers=wrong)


def test_a_tracker_that_breaks_is_left_out_and_the_others_go_on(tmp_path):
    class Broken:
        calls = 0

        def start(self, config): ...

        def log(self, k, scalars):
            self.calls += 1
            raise OSError("no line")

        def finish(self, result): ...

    broken, path = Broken(), tmp_path / "run.jsonl"
    with pytest.warns(RuntimeWarning, match="Broken failed in log .*no line"):
        result = solved("server", trackers=[broken, trackers.JsonLines(path)])
    assert broken.calls == 1
    assert_logged(rows(path)[1:-1], result.history)


def test_an_exception_ends_the_trackers_too():
    class Kept:
        ended = "not"

        def start(self, config): ...

        def log(self, k, scalars): ...

        def finish(self, result):
            self.ended = result

    def fails(k, history):
        raise KeyboardInterrupt

    kept = Kept()
    with pytest.raises(KeyboardInterrupt):
        solved("server", progress=fails, trackers=[kept])
    assert kept.ended is None


@pytest.mark.parametrize(
    ("tracker", "package"),
    [(trackers.TensorBoard("x"), "tensorboardX"), (trackers.MLflow(), "mlflow.tracking"), (trackers.WandB(), "wandb")],
)
def test_absent_packages_are_named(tracker, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'thalweg\[") as error:
        solved("server", trackers=[tracker])
    assert "\n" not in str(error.value)


def test_tensorboard_events_are_the_history(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format: length, crc, data, crc)

    result = solved("server", trackers=[trackers.TensorBoard(tmp_path)])
    (path,) = tmp_path.iterdir()
    data, seen, at = path.read_bytes(), [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        seen += [(event.step, v.simple_value) for v in event.summary.value if v.tag == "objective"]
        at += 16 + length
    assert [step for step, _ in seen] == result.history["round"].tolist()
    np.testing.assert_allclose([value for _, value in seen], result.history["objective"], rtol=1e-6)


def test_wandb_calls_by_a_stand_in(monkeypatch):
    """The package is not needed: a module with the three calls that are made stands in."""
    calls = []

    class Run:
        summary = {}

        def log(self, scalars, step):
            calls.append((step, scalars["objective"]))

        def finish(self, exit_code):
            calls.append(exit_code)

    module = types.ModuleType("wandb")
    module.init = lambda **options: calls.append(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    result = solved("server", trackers=[trackers.WandB("p", mode="offline", id="7")])
    options, *logged, code = calls
    assert options["project"] == "p"
    assert options["mode"] == "offline"
    assert options["resume"] == "allow"
    assert [k for k, _ in logged] == result.history["round"].tolist()
    assert code == 0
    assert Run.summary["outcome"].startswith("round limit")


def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its folders are in maintenance mode
    tracker = trackers.MLflow("exp", uri=(tmp_path / "runs").as_uri())
    result = solved("server", trackers=[tracker])
    client = sys.modules["mlflow.tracking"].MlflowClient(tracking_uri=tracker.uri)
    found = client.get_metric_history(tracker.run, "objective")
    assert sorted(metric.step for metric in found) == result.history["round"].tolist()
    run = client.get_run(tracker.run)
    assert run.data.params["seed"] == "0"
    assert run.info.status == "FINISHED"
