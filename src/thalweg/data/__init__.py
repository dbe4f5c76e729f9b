"""Data sets with their natural owners; ways to deal others to clients, to look at the result, and to hold more than memory does;
scores."""

from thalweg.data.activity import har
from thalweg.data.by_label import dirichlet, pathological, shards
from thalweg.data.digits import mnist_5k
from thalweg.data.fashion import fashion_mnist
from thalweg.data.federated import FederatedData
from thalweg.data.heart import heart_disease
from thalweg.data.memory_mapped import MemoryMapped, write_memory_mapped
from thalweg.data.partitioning import partition, vertical
from thalweg.data.plays import shakespeare
from thalweg.data.plot import plot_partition
from thalweg.data.scores import auc, concordance
from thalweg.data.sizes import by_size, lognormal, power_law
from thalweg.data.sources import Generated, Source
from thalweg.data.strategy import Strategy, iid, natural
from thalweg.data.survival import dialysis

__all__ = [
    "FederatedData",
    "Generated",
    "MemoryMapped",
    "Source",
    "Strategy",
    "auc",
    "by_size",
    "concordance",
    "dialysis",
    "dirichlet",
    "fashion_mnist",
    "har",
    "heart_disease",
    "iid",
    "lognormal",
    "mnist_5k",
    "natural",
    "partition",
    "pathological",
    "plot_partition",
    "power_law",
    "shakespeare",
    "shards",
    "vertical",
    "write_memory_mapped",
]
