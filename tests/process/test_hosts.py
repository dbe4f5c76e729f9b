"""Several processes on one machine, over Gloo, as one engine: the numbers of one process, and errors in one line."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import hosted
import thalweg as tw
from thalweg.cli.hosts import join
from thalweg.engine.roll_call import roll_call

SOURCE = Path(tw.__file__).parents[1]
PROGRAM = Path(hosted.__file__)
SECONDS = 400

FILE = """
[problem]
kind = "averaging"
values = [1.0, 2.5, -3.0, 7.0]
[network]
kind = "ring"
failures = { loss = 0.3 }
[algorithm]
name = "GradientTracking"
step_size = 1e-6
[run]
reference = false
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return kept | {"PYTHONPATH": str(SOURCE), "COLUMNS": "200", "JAX_PLATFORMS": "cpu"} | more


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        return server.getsockname()[1]


@contextlib.contextmanager
def started(*commands: list[str], cwd: Path | None = None, environments: list[dict[str, str]] | None = None):
    """Processes that run at the same time; none is left behind."""
    environments = environments or [environment()] * len(commands)
    running = [
        subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=surroundings
        )
        for command, surroundings in zip(commands, environments, strict=True)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def together(*commands: list[str], **how) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of processes that run at the same time."""
    with started(*commands, **how) as running:
        done = [process.communicate(timeout=SECONDS) for process in running]
        return [(process.returncode, *texts) for process, texts in zip(running, done, strict=True)]


def solved(folder: Path, processes: int, *names: str) -> list[dict]:
    """What each process found."""
    address = f"127.0.0.1:{free_port()}"
    ends = together(*([str(PROGRAM), address, str(processes), str(rank), str(folder), *names] for rank in range(processes)))
    assert [code for code, *_ in ends] == [0] * processes, ends
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


def alone(run, *arguments, **options) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return hosted.numbers(run(*arguments, **options))


def command(*arguments: str) -> list[str]:
    return ["-m", "thalweg.cli", *arguments]


def hosts(rank: int, port: int, processes: int = 2) -> list[str]:
    return ["--hosts", f"127.0.0.1:{port}", "--rank", str(rank), "--processes", str(processes)]


def test_two_processes_give_the_bits_of_one_and_resume(tmp_path):
    first, second = solved(tmp_path, 2, "torus, noisy", "resumed")
    assert first == second
    whole = alone(hosted.CASES["torus, noisy"], "simulated")
    assert first["torus, noisy"] == first["resumed"] == whole
    assert alone(hosted.interrupted, "simulated", tmp_path / "there", True) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "names"),
    [
        (2, ["ring", "exponential", "schedule"]),
        (2, ["edges, everything", "push, late"]),
        (2, ["server", "price", "not finite"]),
        (4, ["random", "torus, noisy", "server"]),
    ],
)
def test_any_run_on_several_processes_gives_the_bits_of_one(tmp_path, processes, names):
    found = solved(tmp_path, processes, *names)
    for other in found[1:]:
        assert other == found[0]
    for name in names:
        assert found[0][name] == alone(hosted.CASES[name], "simulated"), name


def test_every_case_runs_on_several_processes():
    marks = next(
        mark for mark in test_any_run_on_several_processes_gives_the_bits_of_one.pytestmark if mark.name == "parametrize"
    )
    assert {name for _, names in marks.args[1] for name in names} == set(hosted.CASES)


CALLS = {
    "a rank too many": (("127.0.0.1:{port}", 2, 2), "expected a rank from 0 to 1"),
    "no port": (("127.0.0.1", 2, 0), 'expected the coordinator as "host:port"'),
    "half of it": (("127.0.0.1:{port}", None, 0), "expected all three, or none of them under SLURM or Open MPI"),
    "nothing at all": ((None, None, None), "found no SLURM or Open MPI job"),
}


@pytest.mark.parametrize("case", CALLS)
def test_impossible_arguments_are_refused(case):
    (address, processes, rank), message = CALLS[case]
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        tw.distribute(address and address.format(port=7100), processes, rank)


def test_jax_must_not_have_been_used():
    import jax

    jax.devices()
    with pytest.raises(RuntimeError, match="JAX has been used already"):
        tw.distribute("127.0.0.1:7100", 2, 0)


def called(*calls: tuple[int, int, int], timeout: float) -> list[str]:
    """What each of the (rank, processes, port) hears at the roll call, all at the same time."""

    def answer(rank, processes, port):
        try:
            roll_call(f"127.0.0.1:{port}", processes, rank, timeout)
        except RuntimeError as error:
            return str(error)
        return "begin"

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(answer, *zip(*((rank, processes, port) for rank, processes, port in calls), strict=True)))


def test_the_roll_call_names_whoever_is_missing_to_all():
    ports = [free_port() for _ in range(6)]
    assert called((0, 3, ports[0]), (1, 3, ports[0]), (2, 3, ports[0]), timeout=30) == ["begin"] * 3
    missing = "distribute: process 2, 3 of 4 did not come within 1 s"
    assert called((0, 4, ports[1]), (1, 4, ports[1]), timeout=1) == [missing] * 2
    first, second = called((0, 2, ports[2]), (1, 3, ports[2]), timeout=30)
    assert first == second == "distribute: process 1 counts on processes 3, process 0 on 2; start all of them alike"
    for heard in called((0, 3, ports[3]), (1, 3, ports[3]), (1, 3, ports[3]), timeout=30):
        assert heard == "distribute: rank 1 came twice; give every process its own, 0 … 2"
    nobody = f"distribute: process 0 did not answer at 127.0.0.1:{ports[4]} within 0.5 s; is it running, and is the port open?"
    assert called((1, 2, ports[4]), timeout=0.5) == [nobody]
    with socket.create_server(("", ports[5])):
        (taken,) = called((0, 2, ports[5]), timeout=0.5)
    assert taken.startswith(f"distribute: port {ports[5]} cannot be opened")


def test_a_stranger_at_the_port_is_ignored():
    port = free_port()

    def knock():
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as line:
                line.sendall(b"GET / HTTP/1.1")
                return
            time.sleep(0.02)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(knock)
        assert called((0, 2, port), (1, 2, port), timeout=30) == ["begin"] * 2


@pytest.mark.slow
def test_a_run_from_the_command_line_ends_together_and_is_written_once(tmp_path):
    (tmp_path / "mean.toml").write_text(FILE + "rounds = 30\n")
    port = free_port()
    ends = together(*(command("run", "mean.toml", *hosts(rank, port)) for rank in (0, 1)), cwd=tmp_path)
    assert [code for code, *_ in ends] == [0, 0], ends
    assert "round limit" in ends[0][1]
    assert "rounds" not in ends[1][1]  # process 1 prints nothing
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mean"]
    assert (tmp_path / "runs" / "mean" / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, None, 1, "sharded"), "belong to --hosts"),
        (("auto", 2, None, "sharded"), "reads rank and number of processes"),
        (("auto", None, None, "sharded"), "found no SLURM or Open MPI job"),
        (("127.0.0.1:7100", 2, 0, "debug"), "expected 'sharded'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        join(*options)


def test_a_bad_option_is_one_line(tmp_path):
    (tmp_path / "mean.toml").write_text(FILE)
    ((code, _, err),) = together(command("run", "mean.toml", *hosts(2, free_port())), cwd=tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "expected a rank from 0 to 1" in err


@pytest.mark.slow
def test_processes_that_ask_for_different_runs_are_told(tmp_path):
    for rank, value in enumerate(("7.0", "8.0")):
        (tmp_path / f"{rank}.toml").write_text(FILE.replace("7.0", value))
    port = free_port()
    ends = together(
        *(command("run", f"{rank}.toml", "--out", f"run{rank}", *hosts(rank, port)) for rank in (0, 1)), cwd=tmp_path
    )
    for code, _, err in ends:
        assert code == 2, err
        assert "process 1 has another problem than process 0" in err.splitlines()[-1]
    port = free_port()
    odd = tmp_path / "odd.toml"
    odd.write_text(FILE.replace("7.0]", "7.0, 1.0]"))
    ends = together(*(command("run", "odd.toml", *hosts(rank, port)) for rank in (0, 1)), cwd=tmp_path)
    for code, _, err in ends:
        assert code == 2
        assert "5 agents cannot be split evenly; start a number of processes that divides 5" in err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["interrupt", "kill"])
def test_one_that_leaves_ends_all_and_the_run_goes_on_later(tmp_path, end):
    (tmp_path / "mean.toml").write_text(FILE + "rounds = 1_000_000_000\nevery = 1000\n")
    port, folder = free_port(), tmp_path / "run"
    commands = [command("run", "mean.toml", "--out", "run", *hosts(rank, port)) for rank in (0, 1)]
    with started(*commands, cwd=tmp_path) as (first, second):
        for line in first.stderr:
            if line.startswith("round"):
                break
        deadline = time.monotonic() + 60  # a checkpoint is written every ten seconds
        while end == "kill" and not (folder / "run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        second.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGKILL)
        err = first.communicate(timeout=60)[1].splitlines()[-1]
        second.communicate(timeout=60)
    if end == "interrupt":
        assert (first.returncode, second.returncode) == (130, 130)
        assert "stopped by hand" in err
    else:
        assert first.returncode == 2
        assert "process 0 of 2 has lost the others" in err
    k = json.loads((folder / "run.json").read_text())["round"]
    rounds, port = str(k + 1000), free_port()
    commands = [command("resume", "run", "--rounds", rounds, *hosts(rank, port)) for rank in (0, 1)]
    ends = together(*commands, cwd=tmp_path)
    assert [code for code, *_ in ends] == [0, 0], ends
    assert json.loads((folder / "run.json").read_text())["round"] == k + 1000


LAUNCHERS = {
    "SLURM": lambda rank, port: {
        "SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_NODES": "1",
    },
    "Open MPI": lambda rank, port: {
        "OMPI_MCA_orte_hnp_uri": f"{(port - 61440) * 4096}.0;tcp://127.0.0.1:4000", "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
    },
}  # fmt: skip


@pytest.mark.parametrize("launcher", ["SLURM", pytest.param("Open MPI", marks=pytest.mark.slow)])
def test_what_a_launcher_says_is_read(launcher):
    """The variables that srun and mpirun set; there is no cluster here. JAX takes its port from the job's number."""
    port = next(p for p in range(61440, 65536) if _is_free(p))
    code = "import thalweg as tw; print(tw.distribute(timeout=60)); import jax; print(jax.device_count())"
    surroundings = [environment(**LAUNCHERS[launcher](rank, port)) for rank in (0, 1)]
    ends = together(["-c", code], ["-c", code], environments=surroundings)
    assert [out for _, out, _ in ends] == [f"Hosts(processes=2, rank={rank})\n2\n" for rank in (0, 1)], ends


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("", port)):
        return True
    return False
