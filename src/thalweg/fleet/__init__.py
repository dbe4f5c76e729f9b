"""Fleets of unequal devices: speed, bandwidth, availability, drop-outs."""

from .availability import Availability, daily, intervals, read_intervals
from .fleet import Fleet

__all__ = ["Availability", "Fleet", "daily", "intervals", "read_intervals"]
