"""Data that lie with several owners.

Axes: `n` agents, `m` examples (differing between agents), `d` features, `K` classes.
"""

import dataclasses

import numpy as np

Examples = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class FederatedData:
    """Examples of n agents, split into training and test parts. `EmpiricalRisk` takes it as it is, and trains on `train`.

    Attributes:
        train: one `(features [m_i, ...], labels [m_i, ...])` per agent.
        test: the same, of held-out examples; arrays may have length 0.
        names: the agents' names.
        features: names of the d features, in row-major order where an example has several axes.
        central: examples that belong to no agent, to test the common model on; None where there are none.
    """

    train: list[Examples]
    test: list[Examples]
    names: tuple[str, ...]
    features: tuple[str, ...]
    central: Examples | None = None

    @property
    def n(self) -> int:
        """Number of agents."""
        return len(self.names)

    @property
    def d(self) -> int:
        """Number of features."""
        return len(self.features)

    @property
    def sizes(self) -> np.ndarray:
        """Training examples of each agent, int64 `[n]`."""
        return np.array([len(labels) for _, labels in self.train], dtype=np.int64)

    def pooled(self, part: str = "train") -> Examples:
        """All examples of `part` ("train" or "test") in one place, which only a comparison may do.

        Raises:
            ValueError: another part.
        """
        if part not in ("train", "test"):
            raise ValueError(f"pooled: got {part!r}, expected 'train' or 'test'")
        return tuple(np.concatenate(arrays) for arrays in zip(*getattr(self, part), strict=True))

    def label_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """The classes `[K]` that occur in `train`, and how often each agent has each, int64 `[n, K]`.

        Every entry of a label array counts, so that a text whose labels are its characters has the frequencies of these.

        Raises:
            ValueError: labels are no classes (floats other than whole numbers, or several floats per example).
        """
        labels = [labels for _, labels in self.train]
        if not all(map(_are_classes, labels)):
            raise ValueError(
                f"label_counts: got labels of {labels[0].dtype}{list(labels[0].shape)} that are no classes; expected integers, "
                "or floats [m] that are whole numbers; use sizes for other targets"
            )
        classes = np.unique(np.concatenate([np.unique(own) for own in labels]))
        places = (np.searchsorted(classes, own.ravel()) for own in labels)
        return classes, np.stack([np.bincount(place, minlength=len(classes)) for place in places])

    def label_distances(self) -> np.ndarray:
        """How far each agent's labels are from the pooled ones, in total variation ½ Σ_k |p_ik − p_k|; `[n]`, in [0, 1).

        0 where an agent has the pooled distribution; 1 − p_k where it has class k alone.

        Raises:
            ValueError: labels are no classes.
        """
        counts = self.label_counts()[1]
        own = counts / counts.sum(axis=1, keepdims=True)
        return 0.5 * np.abs(own - counts.sum(axis=0) / counts.sum()).sum(axis=1)

    def summary(self) -> str:
        """Sizes, classes per agent and label distances as a few lines of text."""
        smallest, median, largest = (f"{value:,.0f}" for value in np.percentile(self.sizes, [0, 50, 100]))
        rows = [
            ("agents", f"{self.n:,}"),
            ("training examples", f"{self.sizes.sum():,}; per agent {smallest} to {largest}, median {median}"),
            ("test examples", f"{sum(len(labels) for _, labels in self.test):,}"),
        ]
        if self.central is not None:
            rows.append(("central test examples", f"{len(self.central[1]):,}"))
        if all(_are_classes(labels) for _, labels in self.train):
            classes, counts = self.label_counts()
            held, apart = np.percentile((counts > 0).sum(axis=1), [0, 50, 100]), self.label_distances()
            rows += [
                ("classes", f"{len(classes)}; per agent {held[0]:.0f} to {held[2]:.0f}, median {held[1]:.0f}"),
                (
                    "label distance",
                    f"mean {apart.mean():.3f}, largest {apart.max():.3f} (total variation from the pooled labels)",
                ),
            ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def __repr__(self) -> str:
        held = [len(labels) for _, labels in self.test]
        if self.n > 8:
            shown = f"train {self.sizes.min()} to {self.sizes.max()}, test {min(held)} to {max(held)} each"
        else:
            shown = "train+test: " + ", ".join(
                f"{name} {a}+{b}" for name, a, b in zip(self.names, self.sizes, held, strict=True)
            )
        return f"FederatedData({self.n} agents, {self.d} features; {shown})"


def _are_classes(labels: np.ndarray) -> bool:
    """Integers or strings of any shape, or floats `[m]` that are whole."""
    if labels.dtype.kind == "f":
        return labels.ndim == 1 and bool(np.all(labels == np.floor(labels)))
    return labels.dtype.kind in "iubUS"
