"""Stages that make messages smaller, and memories of what these leave out."""

from .block_top_k import BlockTopK, block_top_k
from .ef21 import EF21, ef21
from .entropy import entropy_bits
from .error_feedback import ErrorFeedback, error_feedback
from .natural import Natural, natural
from .power_sgd import PowerSGD, power_sgd
from .qsgd import QSGD, qsgd
from .quantise import Quantise, quantise
from .random_k import RandomK, random_k
from .rotate import Rotate, rotate
from .sign import Sign, sign
from .subsample import Subsample, subsample
from .threshold import Threshold, threshold
from .top_k import TopK, top_k

__all__ = [
    "EF21", "QSGD", "BlockTopK", "ErrorFeedback", "Natural", "PowerSGD", "Quantise", "RandomK", "Rotate", "Sign", "Subsample",
    "Threshold", "TopK", "block_top_k", "ef21", "entropy_bits", "error_feedback", "natural", "power_sgd", "qsgd", "quantise",
    "random_k", "rotate", "sign", "subsample", "threshold", "top_k",
]  # fmt: skip
