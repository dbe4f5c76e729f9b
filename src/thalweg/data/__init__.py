"""Data sets with their natural owners, and scores."""

from thalweg.data.federated import FederatedData
from thalweg.data.heart import heart_disease
from thalweg.data.scores import auc

__all__ = ["FederatedData", "auc", "heart_disease"]
