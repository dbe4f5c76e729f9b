"""What is to be minimised: one agent's data and oracle, constants, a central reference, heterogeneity."""

from thalweg.problem import losses
from thalweg.problem.allocation import allocation, bids, network_utility
from thalweg.problem.alone import Alone, Feasibility, alone, feasibility
from thalweg.problem.base import Local, Problem
from thalweg.problem.certificate import Certificate, certify
from thalweg.problem.choices import Recovered, choices, recover
from thalweg.problem.cones import ball, second_order_cone
from thalweg.problem.consensus import Consensus
from thalweg.problem.constants import Constants, estimate_constants
from thalweg.problem.coupled import Coupled
from thalweg.problem.empirical_risk import EmpiricalRisk
from thalweg.problem.grouped import grouped, ungroup
from thalweg.problem.heterogeneity import Heterogeneity, heterogeneity
from thalweg.problem.measurements import Measurements
from thalweg.problem.polyhedron import Polyhedron
from thalweg.problem.quadratic import quadratic
from thalweg.problem.reference import Reference, reference
from thalweg.problem.regularizer import (
    Regularizer,
    box,
    elastic_net,
    group_lasso,
    l1,
    l2,
    nonnegative,
    regularizer,
    simplex,
)
from thalweg.problem.respond import ClosedForm, Descent, InteriorPoint
from thalweg.problem.streamed import StreamedRisk

__all__ = [
    "Alone",
    "Certificate",
    "ClosedForm",
    "Consensus",
    "Constants",
    "Coupled",
    "Descent",
    "EmpiricalRisk",
    "Feasibility",
    "Heterogeneity",
    "InteriorPoint",
    "Local",
    "Measurements",
    "Polyhedron",
    "Problem",
    "Recovered",
    "Reference",
    "Regularizer",
    "StreamedRisk",
    "allocation",
    "alone",
    "ball",
    "bids",
    "box",
    "certify",
    "choices",
    "elastic_net",
    "estimate_constants",
    "feasibility",
    "group_lasso",
    "grouped",
    "heterogeneity",
    "l1",
    "l2",
    "losses",
    "network_utility",
    "nonnegative",
    "quadratic",
    "recover",
    "reference",
    "regularizer",
    "second_order_cone",
    "simplex",
    "ungroup",
]
