"""FedAvg by Flower's deployment engine: a SuperLink and a SuperNode for each client, as processes of this machine.

Taken where Flower leaves a choice: no TLS, the SuperLink's state in memory, no installation of an app's requirements. Every client
takes one gradient step of length ½ towards numbers of its own, in NumPy, as in `benchmarks.deploy_rounds`.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

NUMBERS = 1000
START, PATIENCE = 6.0, 60.0  # seconds that processes need to be there, and that a round may take

SERVER = """
import json
import time

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid, context):
    clients, rounds, out = (context.run_config[name] for name in ("clients", "rounds", "out"))
    times = []

    def look(k, arrays):
        times.append(time.perf_counter())
        with open(out, "w") as file:
            json.dump({"times": times, "x": arrays.to_numpy_ndarrays()[0].tolist()}, file)
        return MetricRecord({"round": k})

    everybody = {"min_available_nodes": clients, "min_train_nodes": clients, "min_evaluate_nodes": 0}
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, **everybody)
    start = ArrayRecord([np.zeros(%d, np.float32)])
    strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds, evaluate_fn=look)
"""
CLIENT = """
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    x = message.content["arrays"].to_numpy_ndarrays()[0]
    own = np.random.default_rng(context.node_config["client"]).standard_normal(%d).astype(np.float32)
    told = {"arrays": ArrayRecord([x - 0.5 * (x - own)]), "metrics": MetricRecord({"num-examples": 1})}
    return Message(content=RecordDict(told), reply_to=message)
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "rival"
version = "1.0.0"
description = "FedAvg"
license = "Apache-2.0"
dependencies = ["flwr", "numpy"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "rival"
[tool.flwr.app.components]
serverapp = "rival.server:app"
clientapp = "rival.client:app"
[tool.flwr.app.config]
clients = {clients}
rounds = {rounds}
out = "{out}"
"""
LINK = """
[superlink]
default = "here"
[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""


def free_ports(count: int) -> list[int]:
    """Of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def measured(folder: Path, clients: int, rounds: int) -> dict:
    """Times at the end of every round, and the model after the last.

    Raises:
        TimeoutError: a round took too long.
    """
    app, out = folder / "app", folder / "out.json"
    (app / "rival").mkdir(parents=True)
    port, *own = free_ports(1 + clients)
    for name, text in (
        ("app/rival/__init__.py", ""),
        ("app/rival/server.py", SERVER % NUMBERS),
        ("app/rival/client.py", CLIENT % NUMBERS),
        ("app/pyproject.toml", PROJECT.format(clients=clients, rounds=rounds, out=out)),
        ("config.toml", LINK.format(port=port)),
    ):
        (folder / name).write_text(text)
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    surroundings = os.environ | {"FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}
    with (folder / "log.txt").open("w") as log, contextlib.ExitStack() as stack:

        def start(program: str, *arguments) -> None:
            process = subprocess.Popen(
                [programs / program, "--insecure", *map(str, arguments)],
                cwd=folder, env=surroundings, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            stack.callback(os.killpg, process.pid, signal.SIGKILL)

        start("flower-superlink", "--host", "127.0.0.1", "--port", port, "--disable-runtime-dependency-installation")
        time.sleep(START)
        for i in range(clients):
            start("flower-supernode", "--superlink", f"127.0.0.1:{port}", "--port", own[i], "--node-config", f"client={i}")
        time.sleep(START)
        subprocess.run(
            [programs / "flwr", "run", app, "here"], cwd=folder, env=surroundings, stdout=log, stderr=log, check=True
        )
        last, found = time.monotonic(), {"times": []}
        while len(found["times"]) <= rounds:
            time.sleep(0.2)
            with contextlib.suppress(OSError, json.JSONDecodeError):  # it is being written
                seen = json.loads(out.read_text())
                last, found = (time.monotonic(), seen) if len(seen["times"]) > len(found["times"]) else (last, found)
            if time.monotonic() - last > PATIENCE:
                raise TimeoutError(
                    f"round {len(found['times'])} took over {PATIENCE:g} s:\n{(folder / 'log.txt').read_text()[-2000:]}"
                )
        return found


def main() -> None:
    """Write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", required=True)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), asked.clients, asked.rounds)
    Path(asked.out).write_text(json.dumps(found | {"version": version("flwr")}))


if __name__ == "__main__":
    main()
