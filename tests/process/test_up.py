"""Sites as real processes: `thalweg up`, `join`, `status`, `stop`, `report`; and mistakes, each of which ends in one line."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import thalweg as tw
from thalweg.cli.app import app
from thalweg.deploy import keys

pytest.importorskip("zenoh")

SOURCE = Path(tw.__file__).parents[1]
HEARTS = (Path(__file__).parents[2] / "examples" / "hearts.toml").read_text()
LONG = """
[problem]
kind = "averaging"
values = [1.0, 4.0]
[network]
kind = "path"
[algorithm]
name = "GradientTracking"
step_size = 1e-6
[run]
rounds = 1_000_000
every = 10
[deploy]
wait = 60.0
timeout = 1.0
[deploy.sites]
a = "tls/127.0.0.1:{}"
b = "tls/127.0.0.1:{}"
"""
PATIENCE = 400.0


def free_ports(count):
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def start(*arguments, cwd):
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment = kept | {"PYTHONPATH": str(SOURCE), "COLUMNS": "200"}
    command = [sys.executable, "-m", "thalweg.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment)


def ended(process):
    """(exit code, stdout, stderr); a process that hangs fails the test."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(process.communicate()) from None
    return process.returncode, out, err


def kill(*processes):
    for process in processes:
        process.kill()
        process.communicate()


def invoke(*arguments):
    return CliRunner().invoke(app, [str(word) for word in arguments], env={"COLUMNS": "200"})


def until(condition, what):
    began = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - began < PATIENCE, f"waited for {what} in vain"
        time.sleep(0.05)
    return found


def status(folder):
    path = folder / "status.json"
    return json.loads(path.read_text()) if path.exists() else {"state": "", "round": -1}


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """The folder of a run of the heart-disease experiment as processes, and what it printed."""
    folder = tmp_path_factory.mktemp("hearts")
    # As in the simulation with which it is compared, the hospitals themselves decide when to stop.
    (folder / "hearts.toml").write_text(HEARTS.replace("[stop]", "[stop]\ndistributed = true"))
    code, out, err = ended(start("up", "hearts.toml", "--out", "run", cwd=folder))
    assert code == 0, err
    return folder, out


def test_the_hearts_end_where_the_simulation_ends(hearts):
    folder, out = hearts
    simulated, _ = tw.experiment.load(folder / "hearts.toml").run(folder / "simulated", progress=False)
    result, tables = tw.experiment.RunFolder(folder / "run").read()
    assert (result.outcome, result.rounds) == (simulated.outcome, simulated.rounds)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), dict(result.agents), _by_name(simulated))
    np.testing.assert_array_equal(result.ledger.bytes, simulated.ledger.bytes)
    scores = simulated_scores(folder)
    assert [tuple(row) for row in tables[0].rows] == [pytest.approx(row, abs=1e-9) for row in scores]
    for text in ("converged", "AUC", "cleveland", "GradientTracking(step_size=", "report: run/report.html"):
        assert text in out
    assert "own losses" in (folder / "run" / "report.html").read_text()


def _by_name(result):
    return {
        jax.tree_util.keystr(path).strip("[].'\""): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(result.agents)
    }


def simulated_scores(folder):
    return [tuple(row) for row in tw.experiment.RunFolder(folder / "simulated").read()[1][0].rows]


def test_sites_leave_a_log_a_status_and_an_answer_of_which_the_report_can_be_drawn_again(hearts, monkeypatch):
    folder, _ = hearts
    monkeypatch.chdir(folder)
    done = invoke("status", "run")
    assert done.exit_code == 0
    for name in ("cleveland", "hungary", "switzerland", "va"):
        assert re.search(rf"^{name} +finished", done.stdout, re.MULTILINE)
        events = [json.loads(line)["event"] for line in (folder / "run" / name / "log.jsonl").read_text().splitlines()]
        assert events[0] == "asked to join"
        assert events[-1] == "finished"
        assert events.count("epoch") == 1
    done = invoke("report", "run/va", "run/hungary", "--out", "two.html")
    assert done.exit_code == 0, done.output
    assert "sites whose folders are not here: cleveland, switzerland" in Path("two.html").read_text()
    for again in (("up", "hearts.toml", "--out", "run"), ("join", "hearts.toml", "--site", "va", "--folder", "run/va")):
        done = invoke(*again)
        assert done.exit_code == 2
        assert "holds a run that has ended" in done.stderr
    assert "no site runs in run" in invoke("stop", "run").stderr


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A folder with the keys of two sites."""
    folder = tmp_path_factory.mktemp("federation")
    keys.init(folder / "keys", ["a", "b"])
    return folder


@pytest.fixture
def place(federation, tmp_path, monkeypatch):
    """A folder with an experiment of two sites and their keys."""
    shutil.copytree(federation / "keys", tmp_path / "keys")
    (tmp_path / "long.toml").write_text(LONG.format(*free_ports(2)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_sites_are_watched_stopped_and_go_on(place):
    sites = {name: start("join", "long.toml", "--site", name, *more, cwd=place) for name, more in JOINED.items()}
    folders = {name: place / "runs" / "long" / name for name in sites}
    try:
        until(lambda: all(status(folder)["round"] > 20 for folder in folders.values()), "rounds")
        shown = invoke("status")
        assert re.search(r"^a +running +[\d,]+ +\d+ +0 +2/2", shown.stdout, re.MULTILINE), shown.stdout
        events = [json.loads(line) for line in (folders["a"] / "log.jsonl").read_text().splitlines()]
        port = next(event["port"] for event in events if event["event"] == "metrics")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            scraped = answer.read().decode()
        found = {name: float(value) for name, value in re.findall(r'^(thalweg_\w+)\{site="a"\} (\S+)', scraped, re.MULTILINE)}
        assert found["thalweg_round"] > 20
        assert found["thalweg_members"] == 2
        assert found["thalweg_round_seconds_count"] > 10
        twin = invoke("join", "long.toml", "--site", "a")
        assert twin.exit_code == 2
        assert "a site runs in runs/long/a already" in twin.stderr
        stopped = invoke("stop")
        assert stopped.exit_code == 0, stopped.stderr
        assert "a: stopped" in stopped.stdout
        for process in sites.values():
            code, _, err = ended(process)
            assert code == 130
            assert "the same command goes on from round" in err.splitlines()[-1]
    finally:
        kill(*sites.values())


JOINED = {"a": ("--metrics", "0"), "b": ()}


@pytest.mark.slow
def test_sites_that_were_stopped_go_on_from_their_logs(place):
    folders = [place / "runs" / "long" / name for name in "ab"]
    at = 0
    for epoch in (0, 1):
        sites = [start("join", "long.toml", "--site", name, cwd=place) for name in "ab"]
        try:
            until(lambda at=at: all(status(folder)["round"] > at + 20 for folder in folders), "rounds")
            assert status(folders[0])["epoch"] == epoch
            sites[0].send_signal(signal.SIGTERM)
            sites[1].send_signal(signal.SIGINT)
            assert [ended(process)[0] for process in sites] == [130, 130]
        finally:
            kill(*sites)
        at = min(status(folder)["round"] for folder in folders)


@pytest.mark.slow
def test_up_ends_all_its_processes_with_ctrl_c_and_when_it_is_killed_itself(place):
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        up = start("up", "long.toml", "--out", f"out{code}", cwd=place)
        folders = [place / f"out{code}" / name for name in "ab"]
        try:
            until(lambda folders=folders: all(status(folder)["round"] > 10 for folder in folders), "rounds")
            up.send_signal(number)
            found, _, err = ended(up)
            assert found == code, err
            until(lambda folders=folders: all(status(folder)["state"] == "stopped" for folder in folders), "the end of all")
        finally:
            kill(up)


@pytest.mark.slow
def test_up_ends_when_a_site_is_killed_before_the_first_round(place):
    up = start("up", "long.toml", "--out", "out", cwd=place)
    try:
        pid = until(lambda: "pid" in (found := status(place / "out" / "a")) and found["epoch"] < 0 and found["pid"], "a site")
        os.kill(pid, signal.SIGKILL)
        code, _, err = ended(up)
        assert code == 2
        assert "site 'a': it was killed (signal 9) before the first round" in err.splitlines()[-1]
    finally:
        kill(up)


# -- mistakes ----------------------------------------------------------------------------------------


def refused(*arguments, code=2):
    """The one line that a command ends with."""
    began = time.monotonic()
    done = invoke(*arguments)
    assert time.monotonic() - began < 60
    assert done.exit_code == code, done.output
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: ")
    assert "Traceback" not in done.stderr
    return last


def join(site="a", *more):
    return "join", "long.toml", "--site", site, *more


def test_keys_that_do_not_do(place):
    keys.renew(place / "keys", "a", days=1e-9)
    assert "expired" in refused(*join())
    shutil.rmtree(place / "keys" / "sites" / "a")
    assert "thalweg keys" in refused(*join())
    assert "expected one of a, b" in refused(*join("aa"))


def test_another_authority_is_named(place):
    """Site b listens with keys of one federation, site a comes with those of another."""
    keys.init(place / "other", ["a", "b"])
    other = start("join", "long.toml", "--site", "b", "--keys", "other", "--folder", "b", cwd=place)
    try:
        until(lambda: status(place / "b")["state"] == "waiting", "the other site")
        assert "of another authority" in refused(*join())
        assert status(place / "b")["state"] == "waiting"  # it still waits for the right one
        other.send_signal(signal.SIGTERM)
        assert ended(other)[0] == 130
    finally:
        kill(other)


def test_ports_and_routers(place):
    port = int(re.search(r'a = "tls/127.0.0.1:(\d+)"', (place / "long.toml").read_text())[1])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert f"the port of tls/127.0.0.1:{port} is taken" in refused(*join())
    (nobody,) = free_ports(1)
    text = (place / "long.toml").read_text().partition("[deploy.sites]")[0]
    (place / "long.toml").write_text(f'{text}sites = ["a", "b"]\nrouter = "tls/127.0.0.1:{nobody}"\n')
    assert "no way to the router" in (line := refused(*join()))
    assert "nothing listens there" in line
    assert "expected a port" in refused(*join("a", "--metrics", "http"))


def test_a_site_that_stays_alone_says_who_is_missing_and_why(place):
    (place / "long.toml").write_text((place / "long.toml").read_text().replace("wait = 60.0", "wait = 2.0"))
    line = refused(*join(), code=1)
    assert "missing: b" in line
    assert "nothing listens there" in line


def test_a_policy_refuses_before_anything_is_sent_and_the_log_says_so(place):
    (place / "policy.toml").write_text("max_rounds = 10")
    shutil.rmtree(place / "keys")  # nothing of the network is looked at before
    assert "got 1,000,000 rounds, allowed are 10" in refused(*join("a", "--policy", "policy.toml"))
    *_, last = (place / "runs" / "long" / "a" / "log.jsonl").read_text().splitlines()
    assert json.loads(last)["event"] == "refused"
    assert "allowed are 10" in json.loads(last)["reason"]
    assert json.loads(last)["level"] == "error"


@pytest.mark.slow
def test_files_that_differ_are_named_on_both_sides(place):
    first = (place / "long.toml").read_text()
    (place / "other").mkdir()
    (place / "other" / "long.toml").write_text(first.replace("1e-6", "1e-5"))
    sites = [start(*join("a"), cwd=place), start("join", "other/long.toml", "--site", "b", "--folder", "b", cwd=place)]
    said = []
    for process in sites:
        code, _, err = ended(process)
        assert code == 2, err
        said.append(err.splitlines()[-1])
    for line in said:
        assert len(re.findall(r"\b[0-9a-f]{12}\b", line)) == 2
    assert set(re.findall(r"\b[0-9a-f]{12}\b", said[0])) == set(re.findall(r"\b[0-9a-f]{12}\b", said[1]))


@pytest.mark.slow
def test_two_sites_with_one_name_leave_one(place):
    """The same site from two folders, as by a copied virtual machine."""
    sites = [start(*join("a"), cwd=place), start(*join("b"), cwd=place)]
    folders = [place / "runs" / "long" / name for name in "ab"]
    try:
        until(lambda: all(status(folder)["round"] > 10 for folder in folders), "rounds")
        (port,) = free_ports(1)
        twin = start(*join("b", "--folder", "twin", "--listen", f"tls/127.0.0.1:{port}"), *connect(place), cwd=place)
        code, _, err = ended(twin)
        assert code == 2, err
        assert "two sites are called 'b'" in err.splitlines()[-1]
        at = status(folders[1])["round"]
        until(lambda: status(folders[1])["round"] > at + 10, "the first one to go on")
    finally:
        kill(*sites)


def connect(place):
    return "--connect", re.search(r'a = "(\S+)"', (place / "long.toml").read_text())[1]


def test_wrong_uses_are_one_line(place):
    assert "has no server; its sites use `thalweg join`" in refused("serve", "long.toml")
    assert "there is no policy file" in refused(*join("a", "--policy", "none.toml"))
    assert "there is no site in" in refused("status", "keys")
    assert "at least one" in refused("keys", "init", "empty", "--sites", ",")
    assert "no site 'c'" in refused("keys", "renew", "keys", "--site", "c")
    shown = invoke("keys", "show", "keys")
    assert re.search(r"^ *a +20\d\d-", shown.stdout, re.MULTILINE)
