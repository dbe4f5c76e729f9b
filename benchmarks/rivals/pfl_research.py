"""FedAvg in pfl-research: its simulated backend in one process, set up as in its own CIFAR10 benchmark.

Where pfl leaves a choice the faster one is taken: data are tensors from the start, each user's `Dataset` is kept so that its
batches are cut once, no privacy postprocessors, no metrics to disk, users are evaluated in round 0 only (which no median sees).
"""

import time
from functools import partial

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm import FederatedAveraging, NNAlgorithmParams
from pfl.callback.base import TrainingProcessCallback
from pfl.data import FederatedDataset
from pfl.data.dataset import Dataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn
from torch.nn.functional import cross_entropy

from . import data, measure, torch_model


class Model(nn.Module):
    """The network with the two methods that pfl asks for."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def loss(self, inputs, targets):
        """Mean cross-entropy of a batch."""
        return cross_entropy(self.net(inputs), targets)

    @torch.no_grad()
    def metrics(self, inputs, targets):
        """Correct labels over examples."""
        return {"accuracy": Weighted(int((self.net(inputs).argmax(1) == targets).sum()), len(inputs))}


class Clock(TrainingProcessCallback):
    """Unrounded seconds of each central iteration."""

    def on_train_begin(self, *, model):
        """Start the clock."""
        self.seconds, self.start = [], time.perf_counter()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Take a lap."""
        now = time.perf_counter()
        self.seconds.append(now - self.start)
        self.start = now
        return False, Metrics()


def train(workload: str, rounds: int, seed: int, threads: int, channels_last: bool = False):
    """Seconds per round, test accuracy, no workers."""
    torch.set_num_threads(threads)
    users = [Dataset(list(client), user_id=i) for i, client in enumerate(torch_model.clients(workload, seed, channels_last))]
    sampled = iter(data.cohorts(seed, rounds).ravel().tolist())
    federation = FederatedDataset(users.__getitem__, partial(next, sampled))
    net = torch_model.build(workload, seed, channels_last)
    module = Model(net)
    central = torch.optim.SGD(module.parameters(), lr=1.0)
    model = PyTorchModel(model=module, local_optimizer_create=torch.optim.SGD, central_optimizer=central)
    local = NNTrainHyperParams(local_learning_rate=data.RATE, local_num_epochs=1, local_batch_size=data.BATCH)
    params = NNAlgorithmParams(
        central_num_iterations=rounds, evaluation_frequency=rounds + 1, train_cohort_size=data.COHORT, val_cohort_size=0
    )
    clock = Clock()
    FederatedAveraging().run(
        algorithm_params=params,
        backend=SimulatedBackend(training_data=federation, val_data=federation, postprocessors=[WeightByUser()]),
        model=model,
        model_train_params=local,
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    return clock.seconds, torch_model.accuracy(net, workload), 0


if __name__ == "__main__":
    measure.main("pfl_research", train, torch_model.settings, ["pfl", "torch", "numpy"])
