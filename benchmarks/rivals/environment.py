"""An environment of its own for each federated rival, and `run`, which runs one there.

    python -m benchmarks.rivals.environment flower softmax --rounds 100

Environments are made once and kept in `~/.cache/thalweg-rivals` (or `$THALWEG_RIVALS`), one for each set of pinned requirements.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PEERS = ("pytorch", "pfl_research", "flower", "fedjax")  # of `benchmarks.federated`
KNOWN = (*PEERS, "byzfl", "flower_deployment")
HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("THALWEG_RIVALS", "~/.cache/thalweg-rivals")).expanduser()


def prepare(peer: str) -> Path:
    """The Python of this peer's environment, made on the first call. RuntimeError has what pip said."""
    if peer not in KNOWN:
        raise ValueError(f"peer must be one of {KNOWN}, got {peer!r}")
    requirements = HERE / "requirements" / f"{peer}.txt"
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / f"{peer}-{key}"
    python, complete = folder / "bin" / "python", folder / "complete"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{peer}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another benchmark may be making the same one
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            for command in (
                [sys.executable, "-m", "venv", folder],
                [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements],
            ):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"could not make the environment of {peer}:\n{done.stderr[-3000:]}")
            complete.touch()
    return python


def run(peer: str, workload: str, rounds: int = 100, seed: int = 0, setting: str | None = None, limit: float = 3600.0) -> dict:
    """What the peer's script measured (see README.md). RuntimeError when it fails, TimeoutError after `limit` seconds.

    Without `setting`, the script tries each of its own for a few rounds and runs the fastest.
    """
    python = prepare(peer)
    with tempfile.TemporaryDirectory(prefix="thalweg-rival-") as scratch:
        out = Path(scratch) / "out.json"
        command = [python, "-m", f"benchmarks.rivals.{peer}", "--workload", workload, "--out", out]
        command += ["--rounds", str(rounds), "--seed", str(seed)] + ([] if setting is None else ["--setting", setting])
        private = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XLA_", "JAX_", "OMP_"))}
        private |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
        private |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": scratch, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": scratch}
        errors = Path(scratch) / "errors.txt"
        with errors.open("w") as stream:
            process = subprocess.Popen(
                command, cwd=HERE.parent.parent, env=private, stdout=stream, stderr=stream, start_new_session=True
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"{peer} on {workload} took over {limit:g} s:\n{errors.read_text()[-3000:]}") from None
            finally:
                _end(process)
        if code or not out.exists():
            raise RuntimeError(f"{peer} on {workload} ended with {code}:\n{errors.read_text()[-3000:]}")
        return json.loads(out.read_text())


def _end(process: subprocess.Popen) -> None:
    """End what is left of its session's process group (Ray's helpers are in it)."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def main() -> None:
    """Run one rival and print its line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals.environment", description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("workload", choices=("softmax", "cnn"))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--setting")
    asked = parser.parse_args()
    print(json.dumps(run(asked.peer, asked.workload, asked.rounds, asked.seed, asked.setting)))


if __name__ == "__main__":
    main()
