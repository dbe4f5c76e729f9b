"""Speakers of Shakespeare adapt a frozen language model together: low-rank adapters on MiniLM, trained where the lines are."""

from .minilm import Encoder, load, tokenise
from .study import FollowOn, pairs, study

__all__ = ["Encoder", "FollowOn", "load", "pairs", "study", "tokenise"]
