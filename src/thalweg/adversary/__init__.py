"""Agents that do not keep to the algorithm: what they send in place of what they should, and data that mislead them."""

from .base import Adversary
from .constant import Constant, constant, zero
from .data import backdoor, flip_labels
from .inner_product import InnerProduct, inner_product
from .little import LittleIsEnough, little_is_enough
from .mimic import Mimic, mimic
from .noise import Noise, noise
from .sign_flip import SignFlip, sign_flip
from .stale import Stale, stale

__all__ = [
    "Adversary", "Constant", "InnerProduct", "LittleIsEnough", "Mimic", "Noise", "SignFlip", "Stale", "backdoor", "constant",
    "flip_labels", "inner_product", "little_is_enough", "mimic", "noise", "sign_flip", "stale", "zero",
]  # fmt: skip
