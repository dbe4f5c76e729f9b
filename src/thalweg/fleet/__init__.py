"""Fleets of unequal devices: speed, bandwidth, availability, drop-outs; and clocks where there are no rounds."""

from .availability import Availability, daily, intervals, read_intervals
from .clocks import Clocks
from .fleet import Fleet

__all__ = ["Availability", "Clocks", "Fleet", "daily", "intervals", "read_intervals"]
