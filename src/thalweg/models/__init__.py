"""Models: from Equinox, Flax or a pair of functions to a loss of one example and a start; generalised linear models in one line;
adapters on frozen parameters.

    model, x0 = tw.models.from_equinox(net, tw.losses.softmax_cross_entropy)
    problem = tw.EmpiricalRisk(model, data, x0)
"""

from thalweg.algorithm.leaves import normalisation_leaves
from thalweg.models.adapters import Adapted, LowRank, adapted, attach, lora, merge
from thalweg.models.bridges import from_equinox, from_flax, from_init_apply
from thalweg.models.linear import linear_regression, logistic_regression, poisson_regression, softmax_regression
from thalweg.models.model import Accuracy, Model, accuracy, freeze, instance_norm

__all__ = [
    "Accuracy",
    "Adapted",
    "LowRank",
    "Model",
    "accuracy",
    "adapted",
    "attach",
    "freeze",
    "from_equinox",
    "from_flax",
    "from_init_apply",
    "instance_norm",
    "linear_regression",
    "logistic_regression",
    "lora",
    "merge",
    "normalisation_leaves",
    "poisson_regression",
    "softmax_regression",
]
