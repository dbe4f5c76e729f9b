"""What travels: combine rules, the wire format, and stages between an algorithm and the wire."""

from . import secure
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
from .homomorphic_sum import HomomorphicSum, homomorphic_sum
from .noise import Gaussian, Laplace, Noise, gaussian, laplace
from .noisy_mean import NoisyMean, noisy_mean
from .payload import HEADER_BYTES, PROJECTIONS, pack, payload_bytes, unpack
from .robust import (
    Bucketing,
    Bulyan,
    CentredClipping,
    ClippedGossip,
    CoordinateMedian,
    CovarianceFilter,
    GeometricMedian,
    Krum,
    MeanAroundMedian,
    MinimumDiameter,
    MultiKrum,
    NearestNeighbourMixing,
    NearestNeighbours,
    NeighbourMedian,
    NeighbourTrimmedMean,
    NormBound,
    Robust,
    TrimmedMean,
    bucketing,
    bulyan,
    centred_clipping,
    clipped_gossip,
    coordinate_median,
    covariance_filter,
    geometric_median,
    krum,
    mean_around_median,
    minimum_diameter,
    multi_krum,
    nearest_neighbour_mixing,
    nearest_neighbours,
    neighbour_median,
    neighbour_trimmed_mean,
    norm_bound,
    trimmed_mean,
)
from .secure_sum import SecureSum, secure_sum
from .stage import Cast, Chain, Identity, Stage, cast, chain, identity

__all__ = [
    "EF21", "HEADER_BYTES", "PROJECTIONS", "QSGD", "Aggregator", "BlockTopK", "Bucketing", "Bulyan", "Cast",
    "CentredClipping", "Chain", "Clients", "Clip", "ClippedGossip", "Combine", "CoordinateMedian", "CovarianceFilter",
    "Edges", "ErrorFeedback", "Flow", "Gaussian", "GeometricMedian", "HomomorphicSum", "Identity", "Krum", "Laplace",
    "Mean", "MeanAroundMedian", "Mechanism", "MinimumDiameter", "Mix", "Mixer", "MultiKrum", "Natural",
    "NearestNeighbourMixing", "NearestNeighbours", "NeighbourMedian", "NeighbourTrimmedMean", "Neighbours", "Noise",
    "NoisyMean", "NormBound", "PerClient", "PerRow", "PowerSGD", "Pull", "Push", "Quantise", "RandomK", "Robust", "Rotate",
    "Rows", "SecureSum", "Sign", "Stack", "Stage", "Subsample", "Sum", "Summed", "Threshold", "TopK", "TrimmedMean",
    "block_top_k", "bucketing", "bulyan", "cast", "centred_clipping", "chain", "clip", "clipped_gossip",
    "coordinate_median", "covariance_filter", "ef21", "entropy_bits", "error_feedback", "gaussian", "geometric_median",
    "homomorphic_sum", "identity", "krum", "laplace", "mean_around_median", "minimum_diameter", "multi_krum", "natural",
    "nearest_neighbour_mixing", "nearest_neighbours", "neighbour_median", "neighbour_trimmed_mean", "noisy_mean",
    "norm_bound", "pack", "payload_bytes", "power_sgd", "qsgd", "quantise", "random_k", "rotate", "secure", "secure_sum",
    "sign", "subsample", "threshold", "top_k", "trimmed_mean", "unpack",
]  # fmt: skip
