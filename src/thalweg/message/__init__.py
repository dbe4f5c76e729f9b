"""What travels: combine rules, the wire format, and stages between an algorithm and the wire."""

from .aggregate import Aggregator, Mixer
from .clip import Clip, clip
from .combine import Clients, Combine, Edges, Mean, Mix, Neighbours, PerClient, PerRow, Pull, Push, Rows, Stack, Sum, Summed
from .compress import (
    EF21,
    QSGD,
    BlockTopK,
    ErrorFeedback,
    Natural,
    PowerSGD,
    Quantise,
    RandomK,
    Rotate,
    Sign,
    Subsample,
    Threshold,
    TopK,
    block_top_k,
    ef21,
    entropy_bits,
    error_feedback,
    natural,
    power_sgd,
    qsgd,
    quantise,
    random_k,
    rotate,
    sign,
    subsample,
    threshold,
    top_k,
)
from .flow import Flow, Mechanism
from .noise import Gaussian, Laplace, Noise, gaussian, laplace
from .noisy_mean import NoisyMean, noisy_mean
from .payload import HEADER_BYTES, PROJECTIONS, pack, payload_bytes, unpack
from .stage import Cast, Chain, Identity, Stage, cast, chain, identity

__all__ = [
    "EF21", "HEADER_BYTES", "PROJECTIONS", "QSGD", "Aggregator", "BlockTopK", "Cast", "Chain", "Clients", "Clip", "Combine",
    "Edges", "ErrorFeedback", "Flow", "Gaussian", "Identity", "Laplace", "Mean", "Mechanism", "Mix", "Mixer", "Natural",
    "Neighbours", "Noise", "NoisyMean", "PerClient", "PerRow", "PowerSGD", "Pull", "Push", "Quantise", "RandomK", "Rotate",
    "Rows", "Sign", "Stack", "Stage", "Subsample", "Sum", "Summed", "Threshold", "TopK", "block_top_k", "cast", "chain",
    "clip", "ef21", "entropy_bits", "error_feedback", "gaussian", "identity", "laplace", "natural", "noisy_mean", "pack",
    "payload_bytes", "power_sgd", "qsgd", "quantise", "random_k", "rotate", "sign", "subsample", "threshold", "top_k",
    "unpack",
]  # fmt: skip
