"""Dialysis: how long 6,805 patients of 67 centres lived after beginning (Sá Carvalho et al. 2003, Rio de Janeiro).

The records are those of the R package RcmdrPlugin.survival, as the package SurvSet carries them (GPL: read where it is
installed, never copied). Covariates are shifted and scaled by fixed round numbers, the same for all; nothing is computed
over patients.
"""

from typing import Any

import numpy as np

from thalweg._extras import package_file
from thalweg.data import frames
from thalweg.data.federated import FederatedData
from thalweg.data.partitioning import partition
from thalweg.data.strategy import natural

DISEASES = ("congen", "diabetes", "hypert", "other", "renal")
REFERENCE = {"age": (50.0, 15.0), "begin": (22.0, 12.0)}
"""(centre, scale): age in years, begin in months since the study began."""


def dialysis(test: Any = 0.3, seed: Any = 0, dtype: Any = np.float64) -> FederatedData:
    """Survival on dialysis: 67 centres, features `[m, 7]`, outcomes `[m, 2]` = (months observed, 1 if the patient died).

    Features are age, begin and one column per kind of disease. A patient without event was alive after these months: what
    came later is not known (censored).

        data = dialysis()
        model = tw.losses.linear_model(tw.losses.exponential_hazard)
        problem = tw.EmpiricalRisk(model, data, model.start(data.d), regularizer=tw.l2(1e-3))

    Args:
        test: share of each centre's patients that is held out.
        seed: of the split.
        dtype: of features and outcomes.

    Raises:
        ImportError: SurvSet is missing (the extra "data").
        ValueError: a share outside [0, 1).
    """
    path = package_file("SurvSet", "resources/pickles/Dialysis.pickle", "'thalweg[data]'")
    with path.open("rb") as file:
        table = frames.columns(frames.read(file))
    numbers = [(table[f"num_{name}"] - centre) / scale for name, (centre, scale) in REFERENCE.items()]
    features = np.stack([*numbers, *(table["fac_disease"] == disease for disease in DISEASES)], axis=-1).astype(dtype)
    outcomes = np.stack([table["time"], table["event"]], axis=-1).astype(dtype)
    by, names = natural(table["fac_center"]), (*REFERENCE, *(f"disease={disease}" for disease in DISEASES))
    return partition(features, outcomes, by=by, test=test, seed=seed, features=names)
