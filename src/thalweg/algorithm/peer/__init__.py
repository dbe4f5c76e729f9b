"""Peer algorithms: neighbours only, no centre."""

from .averaging import Averaging
from .gradient_tracking import GradientTracking

__all__ = ["Averaging", "GradientTracking"]
