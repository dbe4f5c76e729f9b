"""One data set, dealt to many clients; or its columns, dealt to agents who hold other features of the same examples.

Axes: `m` examples, `n` clients, `d` features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thalweg.data.federated import Examples, FederatedData
from thalweg.data.strategy import Strategy, iid, whole


def partition(
    x: Any,
    y: Any,
    clients: Any = None,
    by: Strategy | Callable | None = None,
    *,
    test: Any = 0.0,
    seed: Any = 0,
    labels: Any = None,
    classes: Any = None,
    features: Sequence[str] | None = None,
    central: Examples | None = None,
) -> FederatedData:
    """Deal examples to clients; every example goes to exactly one.

        data = partition(x, y, clients=100, by=dirichlet(0.3, minimum=10))
        problem = tw.EmpiricalRisk(loss, data, x0)

    Args:
        x: features `[m, ...]`.
        y: what is to be predicted, `[m, ...]`.
        clients: n; may be left out with `natural`.
        by: `iid()` (default), `dirichlet`, `pathological`, `shards`, `by_size`, `natural`, or any function
            `(labels, clients, seed) -> n index arrays`.
        test: share of each client's examples that is held out, drawn at random after a strategy's minimum was met; at least one
            is left to train on.
        seed: the same seed gives the same data.
        labels: `[m]`, what `by` looks at, if it is not `y`.
        classes: the number of classes, if labels outside 0 … classes − 1 are to be refused.
        features: names of the features; their positions by default.
        central: examples that belong to no client, to be kept in the result.

    Raises:
        ValueError: lengths that differ, a share outside [0, 1), labels outside the classes, what `by` refuses, or parts that
            are not a partition with an example for every client.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"partition: got x {x.shape} and y {y.shape}, expected one common leading axis of examples")
    labels = y if labels is None else np.asarray(labels)
    if labels.shape[:1] != x.shape[:1]:
        raise ValueError(f"partition labels: got shape {labels.shape}, expected [{len(x)}], one for each example")
    if not 0 <= test < 1:
        raise ValueError(f"partition test: got {test}, expected a share in [0, 1), e.g. 0.2")
    if classes is not None:
        _within(labels, classes)
    by = iid() if by is None else by
    parts = [np.asarray(part) for part in by(labels, clients, seed)]
    _check_partition(parts, len(x), clients)
    split = [_hold_out(part, test, np.random.default_rng([seed, 1 + i])) for i, part in enumerate(parts)]
    return FederatedData(
        [(x[rows], y[rows]) for rows, _ in split],
        [(x[rows], y[rows]) for _, rows in split],
        by.names(len(parts)) if isinstance(by, Strategy) else tuple(f"client {i}" for i in range(len(parts))),
        _feature_names(features, x.shape[1:]),
        central,
    )


def vertical(x: Any, sizes: Any, seed: Any = None) -> list[np.ndarray]:
    """Deal the *columns* of x: every agent has some features of all the examples.

        bank, shop, insurer = vertical(x, [12, 5, 3])

    It is a function of x, not a strategy of `partition`: the agents' blocks differ in shape, and usually one agent alone has the
    labels.

    Args:
        x: `[m, d]`.
        sizes: d_i ≥ 1 of each agent, with sum d; or the number of agents, among whom the columns are divided equally.
        seed: columns are dealt in random order by it; in their own order if it is left out.

    Returns:
        A list of n arrays `[m, d_i]`. `vertical(np.arange(d)[None], sizes, seed)` tells which columns these are.

    Raises:
        ValueError: x without two axes, sizes that do not sum to d, or an agent that would get no feature.
    """
    x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"vertical: got x {x.shape}, expected [m, d]; flatten further axes first")
    d = x.shape[1]
    if np.ndim(sizes) == 0:
        agents = whole("vertical sizes", sizes, "the number of agents, or one size for each")
        sizes = np.diff(d * np.arange(agents + 1) // agents)
    sizes = np.asarray(sizes)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or sizes.min(initial=1) < 1 or sizes.sum() != d:
        raise ValueError(
            f"vertical sizes: got {sizes.tolist()} with sum {sizes.sum()}, expected integers ≥ 1 with sum {d}, the features of x"
        )
    order = np.arange(d) if seed is None else np.random.default_rng(seed).permutation(d)
    return [x[:, columns] for columns in np.split(order, np.cumsum(sizes)[:-1])]


def _within(labels: np.ndarray, classes: Any) -> None:
    outside = ~np.isin(labels, np.arange(whole("partition classes", classes, "the number of classes")))
    if outside.any():
        raise ValueError(
            f"partition labels: got {np.unique(labels[outside])[:5].tolist()} among {outside.sum()} labels outside the classes, "
            f"expected 0 to {classes - 1}; number the classes from 0, or correct classes={classes}"
        )


def _check_partition(parts: list[np.ndarray], examples: int, clients: Any) -> None:
    if clients is not None and len(parts) != clients:
        raise ValueError(f"partition by: got {len(parts)} parts, expected {clients}, one index array per client")
    for i in (i for i, part in enumerate(parts) if len(part) == 0):
        raise ValueError(f"partition: client {i} would get no example, expected at least 1; take fewer clients, or a minimum")
    everything = np.concatenate(parts)
    if everything.dtype.kind not in "iu" or everything.min() < 0 or everything.max() >= examples:
        raise ValueError(f"partition by: got parts that are no indices, expected integers from 0 to {examples - 1}")
    times = np.bincount(everything, minlength=examples)
    for j in np.flatnonzero(times != 1):
        raise ValueError(
            f"partition by: got example {j} in {times[j]} places ({np.sum(times != 1)} such examples), expected every example "
            "with exactly one client"
        )


def _hold_out(rows: np.ndarray, share: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    held = np.zeros(len(rows), dtype=bool)
    held[generator.permutation(len(rows))[: min(round(share * len(rows)), len(rows) - 1)]] = True
    return rows[~held], rows[held]


def _feature_names(names: Sequence[str] | None, shape: tuple[int, ...]) -> tuple[str, ...]:
    if names is None:
        return tuple(",".join(map(str, place)) or "x" for place in np.ndindex(*shape))
    if len(names) != np.prod(shape, dtype=int):
        raise ValueError(f"partition features: got {len(names)} names, expected {np.prod(shape, dtype=int)}, one per feature")
    return tuple(names)
