"""Normalisation layers stay with the client."""

from typing import Any, ClassVar

import jax

from thalweg.algorithm.base import Claims
from thalweg.algorithm.leaves import divided, normalisation_leaves
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort

from .fedper import SharedLeaves


class FedBN(SharedLeaves):
    """Federated averaging of everything but the normalisation layers, which absorb shifts of features (scanners, sensors).

        client   (y_i, ν_i) ← local solver on f_i, from (x, ν_i);   sends y_i − x, keeps ν_i
        server   x ← x + η Σ_i w_i (y_i − x)

    ν_i are the parameters of normalisation layers as `tw.models.normalisation_leaves` finds them: those of Equinox's
    normalisation modules, and leaves below names such as "LayerNorm_0" or "bn1". A model without any is refused, and so is one
    with nothing else. For other names use `FedPer(shared=…)`, which is the same method. Losses here are of one example, so that
    layers normalise within an example (group, instance, layer); statistics over a batch would be data of the client's and have no
    place in x.

    Args:
        solver: the local solver; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.

    Xiaoxiao Li, Meirui Jiang, Xiaofei Zhang, Michael Kamp, Qi Dou, *FedBN: federated learning on non-IID features via local batch
    normalization*, ICLR 2021.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0

    claims: ClassVar[Claims] = Claims(
        exact=False, rate="sublinear", theorem="Li et al. 2021, over-parametrised two-layer networks"
    )

    def mask(self, x: Any) -> Any:
        local = normalisation_leaves(x)
        return jax.tree.map(lambda stays: not stays, divided(local, x, "FedBN: the filter of normalisation layers"))
