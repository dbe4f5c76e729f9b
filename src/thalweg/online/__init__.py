"""Problems that drift: solutions round by round, and how far behind them the theory lets a method fall."""

from thalweg.problem.online import References, references

from .bound import TrackingBound, accumulated, tracking_bound
from .contraction import Contraction, contraction

__all__ = ["Contraction", "References", "TrackingBound", "accumulated", "contraction", "references", "tracking_bound"]
