"""The two models in PyTorch, for the rivals that train with it."""

from collections import OrderedDict

import torch
from torch import nn

from . import data


def build(workload: str, seed: int, channels_last: bool = False) -> nn.Module:
    """Softmax regression over `[b, 784]`, or the CNN over `[b, 1, 28, 28]` with "valid" convolutions, at the common start.

    28 → conv 26 → conv 24 → pool 12, so 9216 features enter the dense layers; no dropout.
    """
    if workload == "softmax":
        model = nn.Linear(784, 10)
    else:
        layers = OrderedDict(conv1=nn.Conv2d(1, 32, 3), relu1=nn.ReLU(), conv2=nn.Conv2d(32, 64, 3), relu2=nn.ReLU())
        layers |= OrderedDict(pool=nn.MaxPool2d(2), flatten=nn.Flatten(), dense1=nn.Linear(9216, 128), relu3=nn.ReLU())
        model = nn.Sequential(layers | OrderedDict(dense2=nn.Linear(128, 10)))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in data.initial(workload, seed).items()})
    return model.to(memory_format=torch.channels_last) if channels_last else model


def shaped(workload: str, pixels, channels_last: bool = False) -> torch.Tensor:
    """Pixels `[n, 784]` as the model wants them."""
    x = torch.from_numpy(pixels)
    if workload == "cnn":
        x = x.reshape(-1, 1, 28, 28)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def clients(workload: str, seed: int, channels_last: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every client's inputs and labels."""
    pixels, labels = data.federation(seed)
    return [(shaped(workload, x, channels_last), torch.from_numpy(y)) for x, y in zip(pixels, labels, strict=True)]


def batches(workload: str, seed: int, channels_last: bool = False) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Every client's batches, cut once."""
    return [list(zip(x.split(data.BATCH), y.split(data.BATCH), strict=True)) for x, y in clients(workload, seed, channels_last)]


def settings(workload: str) -> dict[str, dict]:
    """One or two threads; for the CNN both memory layouts."""
    tried = {f"{n} thread{'s' * (n > 1)}": {"threads": n} for n in (1, 2)}
    if workload == "cnn":
        tried |= {f"{name}, channels last": setting | {"channels_last": True} for name, setting in tried.items()}
    return tried


@torch.no_grad()
def accuracy(model: nn.Module, workload: str) -> float:
    """Share of the 10,000 test images that the model labels correctly."""
    pixels, labels = data.images("t10k")
    model.eval()
    hits = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(shaped(workload, pixels).split(1000), torch.from_numpy(labels).split(1000), strict=True)
    )
    model.train()
    return hits / len(labels)
