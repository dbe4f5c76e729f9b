"""Data that lie with several owners.

Axes: `n` agents, `m` examples (differing between agents), `d` features.
"""

import dataclasses

import numpy as np

Examples = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class FederatedData:
    """Examples of n agents, split into training and test parts.

    Attributes:
        train: one `(features [m_i, d], labels [m_i])` per agent; ready for `EmpiricalRisk`.
        test: the same, of held-out examples.
        names: the agents' names.
        features: names of the d features.
    """

    train: list[Examples]
    test: list[Examples]
    names: tuple[str, ...]
    features: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of agents."""
        return len(self.names)

    @property
    def d(self) -> int:
        """Number of features."""
        return len(self.features)

    def pooled(self, part: str = "train") -> Examples:
        """All examples of `part` ("train" or "test") in one place, which only a comparison may do.

        Raises:
            ValueError: another part.
        """
        if part not in ("train", "test"):
            raise ValueError(f"pooled: got {part!r}, expected 'train' or 'test'")
        return tuple(np.concatenate(arrays) for arrays in zip(*getattr(self, part), strict=True))

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{name} {len(a[1])}+{len(b[1])}" for name, a, b in zip(self.names, self.train, self.test, strict=True)
        )
        return f"FederatedData({self.n} agents, {self.d} features; train+test: {sizes})"
