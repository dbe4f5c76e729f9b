"""What travels: combine rules, the wire format, and stages between an algorithm and the wire."""

from . import secure
from .aggregate import Aggregator, Mixer
from .clip import Clip, clip
from .combine import Clients, Combine, Edges, Mean, Mix, Neighbours, PerClient, PerRow, Pull, Push, Rows, Stack, Sum, Summed
from .flow import Flow, Mechanism
from .homomorphic_sum import HomomorphicSum, homomorphic_sum
from .noise import Gaussian, Laplace, Noise, gaussian, laplace
from .noisy_mean import NoisyMean, noisy_mean
from .payload import HEADER_BYTES, PROJECTIONS, pack, payload_bytes, unpack
from .secure_sum import SecureSum, secure_sum
from .stage import Cast, Chain, Identity, Stage, cast, chain, identity

__all__ = [
    "HEADER_BYTES", "PROJECTIONS", "Aggregator", "Cast", "Chain", "Clients", "Clip", "Combine", "Edges", "Flow", "Gaussian",
    "HomomorphicSum", "Identity", "Laplace", "Mean", "Mechanism", "Mix", "Mixer", "Neighbours", "Noise", "NoisyMean",
    "PerClient", "PerRow", "Pull", "Push", "Rows", "SecureSum", "Stack", "Stage", "Sum", "Summed", "cast", "chain", "clip",
    "gaussian", "homomorphic_sum", "identity", "laplace", "noisy_mean", "pack", "payload_bytes", "secure", "secure_sum",
    "unpack",
]  # fmt: skip
