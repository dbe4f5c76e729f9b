"""What travels: combine rules, the wire format, and stages between an algorithm and the wire."""

from .aggregate import Aggregator, Mixer
from .combine import Clients, Combine, Edges, Mean, Mix, Neighbours, PerClient, PerRow, Pull, Push, Rows, Stack, Sum, Summed
from .flow import Flow, Mechanism
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
from .stage import Cast, Chain, Identity, Stage, cast, chain, identity

__all__ = [
    "HEADER_BYTES", "PROJECTIONS", "Aggregator", "Bucketing", "Bulyan", "Cast", "CentredClipping", "Chain", "Clients",
    "ClippedGossip", "Combine", "CoordinateMedian", "CovarianceFilter", "Edges", "Flow", "GeometricMedian", "Identity",
    "Krum", "Mean", "MeanAroundMedian", "Mechanism", "MinimumDiameter", "Mix", "Mixer", "MultiKrum", "NearestNeighbourMixing",
    "NearestNeighbours", "NeighbourMedian", "NeighbourTrimmedMean", "Neighbours", "NormBound", "PerClient", "PerRow", "Pull",
    "Push", "Robust", "Rows", "Stack", "Stage", "Sum", "Summed", "TrimmedMean", "bucketing", "bulyan", "cast",
    "centred_clipping", "chain", "clipped_gossip", "coordinate_median", "covariance_filter", "geometric_median", "identity",
    "krum", "mean_around_median", "minimum_diameter", "multi_krum", "nearest_neighbour_mixing", "nearest_neighbours",
    "neighbour_median", "neighbour_trimmed_mean", "norm_bound", "pack", "payload_bytes", "trimmed_mean", "unpack",
]  # fmt: skip
