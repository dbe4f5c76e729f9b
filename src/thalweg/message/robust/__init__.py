"""Rules that bound what liars can do: for a server in place of its mean, for peers in place of mixing."""

from .around_median import MeanAroundMedian, mean_around_median
from .base import Robust
from .bucketing import Bucketing, bucketing
from .bulyan import Bulyan, bulyan
from .centred import CentredClipping, centred_clipping
from .covariance import CovarianceFilter, covariance_filter
from .diameter import MinimumDiameter, minimum_diameter
from .geometric import GeometricMedian, geometric_median
from .gossip import ClippedGossip, clipped_gossip
from .krum import Krum, MultiKrum, krum, multi_krum
from .median import CoordinateMedian, coordinate_median
from .mixing import NearestNeighbourMixing, nearest_neighbour_mixing
from .nearest import NearestNeighbours, nearest_neighbours
from .norm_bound import NormBound, norm_bound
from .screening import NeighbourMedian, NeighbourTrimmedMean, neighbour_median, neighbour_trimmed_mean
from .trimmed import TrimmedMean, trimmed_mean

__all__ = [
    "Bucketing", "Bulyan", "CentredClipping", "ClippedGossip", "CoordinateMedian", "CovarianceFilter", "GeometricMedian", "Krum",
    "MeanAroundMedian", "MinimumDiameter", "MultiKrum", "NearestNeighbourMixing", "NearestNeighbours", "NeighbourMedian",
    "NeighbourTrimmedMean", "NormBound", "Robust", "TrimmedMean", "bucketing", "bulyan", "centred_clipping", "clipped_gossip",
    "coordinate_median", "covariance_filter", "geometric_median", "krum", "mean_around_median", "minimum_diameter", "multi_krum",
    "nearest_neighbour_mixing", "nearest_neighbours", "neighbour_median", "neighbour_trimmed_mean", "norm_bound", "trimmed_mean",
]  # fmt: skip
