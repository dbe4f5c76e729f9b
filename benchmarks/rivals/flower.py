"""FedAvg in Flower's simulation: Ray workers that live as long as the run, 1000 virtual nodes, its own FedAvg.

Taken where Flower leaves a choice: `run_simulation`, the engine behind `flwr run` without a server process; the server looks for
replies every 10 ms instead of 100; each worker loads the data once and keeps one model; clients do not evaluate. The cohort is
written into the messages, so that Flower trains the clients that all other peers train.
"""

import logging
import random
import time
from functools import cache

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn.functional import cross_entropy

from . import data, measure, torch_model


@cache
def worker(workload: str, seed: int, threads: int, channels_last: bool):
    """What a worker keeps: the model, its weights, and each client's batches."""
    torch.set_num_threads(threads)
    model = torch_model.build(workload, seed, channels_last)
    return model, list(model.parameters()), torch_model.batches(workload, seed, channels_last)


def client_train(message: Message, context) -> Message:
    """One local epoch; the reply has the weights and the number of examples."""
    config = message.content["config"]
    model, weights, batches = worker(config["workload"], config["seed"], config["threads"], config["channels-last"])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    for inputs, targets in batches[config["client"]]:
        gradients = torch.autograd.grad(cross_entropy(model(inputs), targets), weights)
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w.sub_(g, alpha=data.RATE)
    reply = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": data.EXAMPLES})}
    return Message(content=RecordDict(reply), reply_to=message)


class Scheduled(FedAvg):
    """Flower's FedAvg with the cohorts given: the message tells the node whose data to use."""

    def __init__(self, schedule: np.ndarray, **options):
        super().__init__(**options)
        self.schedule = schedule.tolist()

    def configure_train(self, server_round, arrays, config, grid):
        """One message for each member of the cohort, to as many random nodes."""
        cohort = self.schedule[server_round - 1]
        nodes = random.sample(list(grid.get_node_ids()), len(cohort))
        for node, client in zip(nodes, cohort, strict=True):
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({**config, "client": client})})
            yield Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node)

    def aggregate_train(self, server_round, replies):
        """All 50 or none: Flower would average without those that failed."""
        replies = list(replies)
        failed = [reply.error.reason for reply in replies if reply.has_error()]
        if failed or len(replies) != data.COHORT:
            raise RuntimeError(f"round {server_round}: {len(replies)} of {data.COHORT} replies, failures {failed}")
        return super().aggregate_train(server_round, replies)


def train(workload: str, rounds: int, seed: int, workers: int, threads: int, channels_last: bool = False):
    """Seconds per round, test accuracy, peak memory of Ray's processes together."""
    laps, final = [], {}
    client_app, server_app = ClientApp(), ServerApp()
    client_app.train()(client_train)

    def lap(server_round, arrays):
        laps.append(time.perf_counter())
        if server_round == rounds:
            final.update(arrays=arrays, memory=measure.peak_memory_below())

    @server_app.main()
    def serve(grid, context):
        grid.pull_interval = 0.01
        while len(list(grid.get_node_ids())) < data.CLIENTS:
            time.sleep(0.1)
        Scheduled(data.cohorts(seed, rounds), fraction_evaluate=0.0).start(
            grid=grid,
            initial_arrays=ArrayRecord(torch_model.build(workload, seed).state_dict()),
            num_rounds=rounds,
            train_config=ConfigRecord({"workload": workload, "seed": seed, "threads": threads, "channels-last": channels_last}),
            evaluate_fn=lap,
        )

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=data.CLIENTS,
        backend_config={
            "init_args": {"num_cpus": workers, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    model = torch_model.build(workload, seed)
    model.load_state_dict(final["arrays"].to_torch_state_dict())
    return np.diff(laps).tolist(), torch_model.accuracy(model, workload), final["memory"]


def settings(workload: str):
    """Two workers of one thread, for the CNN in both memory layouts, or one of two threads."""
    many = {"workers": 2, "threads": 1}
    tried = {"2 workers, 1 thread each": many, "1 worker, 2 threads": {"workers": 1, "threads": 2}}
    return tried | ({"2 workers, 1 thread each, channels last": many | {"channels_last": True}} if workload == "cnn" else {})


if __name__ == "__main__":
    from . import flower  # by its own name, so that Ray's workers import it instead of receiving it with every message

    measure.main("flower", flower.train, flower.settings, ["flwr", "ray", "torch", "numpy"])
