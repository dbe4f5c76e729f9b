"""FedAvg in Flower's deployment engine: one SuperLink, one SuperNode per client, on this machine, without TLS.

    python -m benchmarks.rivals.flower_deployed --clients 8 --rounds 20 --out FILE        (in the environment `flower_deployed`)

Every client holds a vector of 1,000 single numbers and takes one gradient step on half its squared distance to it, as in
`benchmarks.deploy_rounds`. Taken where Flower leaves a choice: no TLS (quicker), no evaluation, its own FedAvg, a server that looks
for replies every 10 ms instead of more seldom; work is done in processes of its own, as by default.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "averages"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr", "numpy"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "thalweg"
[tool.flwr.app.components]
serverapp = "averages.app:server"
clientapp = "averages.app:client"
[tool.flwr.app.config]
rounds = {rounds}
clients = {clients}
laps = "{laps}"
"""
APP = """
import json, time
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord, Array, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client, server = ClientApp(), ServerApp()


@client.train()
def train(message, context):
    target = np.random.default_rng(int(context.node_config["partition-id"])).standard_normal(1000).astype(np.float32)
    x = message.content["arrays"].to_numpy_ndarrays()[0]
    x = x - np.float32(0.5) * (x - target)
    reply = {"arrays": ArrayRecord([x]), "metrics": MetricRecord({"num-examples": 1})}
    return Message(content=RecordDict(reply), reply_to=message)


@server.main()
def main(grid, context):
    grid.pull_interval = 0.01
    config, laps = context.run_config, []
    while len(list(grid.get_node_ids())) < config["clients"]:
        time.sleep(0.1)

    def lap(k, arrays):
        laps.append(time.perf_counter())

    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=config["clients"])
    start = ArrayRecord([np.zeros(1000, np.float32)])
    result = strategy.start(grid=grid, initial_arrays=start, num_rounds=config["rounds"], evaluate_fn=lap)
    norm = float(np.linalg.norm(result.arrays.to_numpy_ndarrays()[0]))
    Path(config["laps"]).write_text(json.dumps({"seconds": np.diff(laps).tolist(), "norm": norm}))
"""


def free_port() -> int:
    """Of this machine."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def main() -> None:
    """Start all processes, run, and write seconds per round."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("clients", "rounds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    bin_ = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as scratch:
        folder, port = Path(scratch), free_port()
        environment = os.environ | {"FLWR_HOME": str(folder / "home"), "PATH": f"{bin_}:{os.environ['PATH']}"}
        (folder / "home").mkdir()
        connection = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        (folder / "home" / "config.toml").write_text(connection)
        project = folder / "project"
        (project / "averages").mkdir(parents=True)
        laps = folder / "laps.json"
        (project / "pyproject.toml").write_text(PROJECT.format(rounds=asked.rounds, clients=asked.clients, laps=laps))
        (project / "averages" / "__init__.py").touch()
        (project / "averages" / "app.py").write_text(APP)
        log = (folder / "log").open("w")
        start = lambda *command: subprocess.Popen(
            [bin_ / command[0], *command[1:]], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        no_install = "--disable-runtime-dependency-installation"
        processes = [start("flower-superlink", "--insecure", "--port", str(port), no_install)]
        try:
            time.sleep(8)
            for i in range(asked.clients):
                place = ["--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
                processes.append(start("flower-supernode", "--insecure", *place, "--node-config", f"partition-id={i}"))
            time.sleep(8)
            processes.append(start("flwr", "run", str(project), "here"))
            end = time.monotonic() + 240
            while not laps.exists() and time.monotonic() < end:
                time.sleep(0.5)
            if not laps.exists():
                sys.exit("Flower has not ended:\n" + (folder / "log").read_text()[-6000:])
            time.sleep(0.5)
            asked.out.write_text(laps.read_text())
        finally:
            for process in processes:
                os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
