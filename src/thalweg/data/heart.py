"""UCI Heart Disease: four hospitals, 920 patients; attribution in HEART-DISEASE.txt (CC BY 4.0).

Nothing is computed over pooled records. A missing number becomes the median of the hospital's own training records, or
the public reference value where the hospital never measured it (cholesterol in Switzerland). Then every number is
shifted and scaled by fixed public reference values (`REFERENCE`): round clinical numbers, typical of adults examined
for chest pain, and the same for all, so that no hospital learns anything of another. Standard deviations are therefore
near 1, not equal to 1, and means differ between hospitals: that difference is information, and stays.
A missing category has zeros in all its columns. Fluoroscopy, thallium scan and slope are almost wholly missing outside
Cleveland, so that these columns also tell, a little, at which hospital a patient was.
"""

import csv
from importlib import resources
from typing import Any

import numpy as np

from thalweg.data.federated import Examples, FederatedData

HOSPITALS = ("cleveland", "hungary", "switzerland", "va")

REFERENCE = {
    "age": (50.0, 10.0),
    "trestbps": (130.0, 20.0),
    "chol": (240.0, 50.0),
    "thalach": (140.0, 25.0),
    "oldpeak": (1.0, 1.0),
    "ca": (0.0, 1.0),
    "sex": (0.5, 0.5),
    "fbs": (0.5, 0.5),
    "exang": (0.5, 0.5),
}
"""(centre, scale) of every number; binary ones become −1 and 1."""

CATEGORIES = {
    "cp": ("asymptomatic", "atypical angina", "non-anginal", "typical angina"),
    "restecg": ("normal", "st-t abnormality", "lv hypertrophy"),
    "slope": ("upsloping", "flat", "downsloping"),
    "thal": ("normal", "fixed defect", "reversible defect"),
}

ZERO_IS_MISSING = frozenset({"chol", "trestbps"})

FEATURES = (*REFERENCE, *(f"{column}={level}" for column, levels in CATEGORIES.items() for level in levels))


def heart_disease(test: float | int = 0.3, seed: int = 0, dtype: Any = np.float64) -> FederatedData:
    """The four hospitals' records: 22 features, label 1 where a coronary vessel is narrowed (num > 0).

    Arguments:
        test: share of each hospital's records held out, drawn within each class; 0 holds out none.
        seed: of the split.
        dtype: of features and labels.

    Returns:
        `FederatedData` with the agents "cleveland" (303 records), "hungary" (294), "switzerland" (123) and "va" (200).

    Raises:
        ValueError: `test` is not in [0, 1).
    """
    if not 0 <= test < 1:
        raise ValueError(f"heart_disease test: got {test}, expected a share in [0, 1), e.g. 0.3")
    with resources.files("thalweg.data").joinpath("heart.csv").open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    parts = [
        _split([record for record in records if record["hospital"] == hospital], test, np.random.default_rng([seed, i]), dtype)
        for i, hospital in enumerate(HOSPITALS)
    ]
    return FederatedData([train for train, _ in parts], [held for _, held in parts], HOSPITALS, FEATURES)


def _split(records: list[dict], test: float | int, generator: np.random.Generator, dtype: Any) -> tuple[Examples, Examples]:
    """Training and test examples of one hospital, from its own records alone."""
    labels = np.array([int(record["num"]) > 0 for record in records])
    held = np.zeros(len(records), dtype=bool)
    for label in (False, True):
        members = generator.permutation(np.flatnonzero(labels == label))
        held[members[: round(test * len(members))]] = True
    numbers = _impute(np.array([[_number(record, column) for column in REFERENCE] for record in records]), ~held)
    one_hot = np.array(
        [[record[column] == level for column, levels in CATEGORIES.items() for level in levels] for record in records]
    )
    features = np.hstack([numbers, one_hot]).astype(dtype)
    return tuple((features[rows], labels[rows].astype(dtype)) for rows in (~held, held))


def _number(record: dict, column: str) -> float:
    text = record[column]
    missing = text == "" or (column in ZERO_IS_MISSING and float(text) == 0)
    return np.nan if missing else float(text)


def _impute(numbers: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Missing entries filled by the training median, then referenced; `[m, 9]`."""
    numbers = numbers.copy()
    for j, (centre, scale) in enumerate(REFERENCE.values()):
        column = numbers[:, j]
        known = column[train & ~np.isnan(column)]
        column[np.isnan(column)] = np.median(known) if known.size else centre
        column[:] = (column - centre) / scale
    return numbers
