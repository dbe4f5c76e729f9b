"""Four hospitals train one model of heart disease over a ring; no record leaves a hospital (`thalweg demo`)."""

from .study import Study, study

__all__ = ["Study", "study"]
