"""Clients whose labels differ: the strategies of the literature on non-IID data.

Axes: `m` examples, `n` clients, `K` classes (those that occur).
"""

import dataclasses
from typing import Any

import numpy as np

from thalweg.data.sizes import FEWEST, enough, raised
from thalweg.data.strategy import Strategy, whole

DRAWS = 10


def members(labels: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """The classes `[K]`, and the indices of each class's examples in random order.

    Raises:
        ValueError: labels that are no classes.
    """
    if labels.ndim != 1:
        raise ValueError(f"labels: got shape {labels.shape}, expected [m], one class for each example; pass labels=")
    if labels.dtype.kind == "f" and not np.all(labels == np.floor(labels)):
        raise ValueError(
            "labels: got floats that are not whole numbers (or NaN), expected classes; bin a regression target first, "
            "e.g. labels=np.digitize(y, np.quantile(y, [0.25, 0.5, 0.75]))"
        )
    classes, place = np.unique(labels, return_inverse=True)
    by_class = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
    return classes, [generator.permutation(own) for own in by_class]


@dataclasses.dataclass(frozen=True)
class Dirichlet(Strategy):
    """See `dirichlet`."""

    alpha: float
    minimum: int

    def _split(self, labels, clients, generator):
        enough("dirichlet", self.minimum, clients, len(labels))
        by_class = members(labels, generator)[1]
        for _ in range(DRAWS):
            counts = np.stack([self._counts(len(own), clients, generator) for own in by_class])
            if counts.sum(axis=0).min() >= self.minimum:
                break
        owner = np.concatenate([np.repeat(np.arange(clients), own) for own in counts])
        shuffled = generator.permutation(len(labels))
        order = np.concatenate(by_class)[shuffled][np.argsort(owner[shuffled], kind="stable")]
        return _topped_up(np.split(order, np.cumsum(counts.sum(axis=0))[:-1]), self.minimum)

    def _counts(self, examples: int, clients: int, generator: np.random.Generator) -> np.ndarray:
        """How many examples of one class every client gets, `[n]`."""
        upto = np.cumsum(generator.dirichlet(np.full(clients, self.alpha)))[:-1]
        return np.diff(np.floor(upto * examples).clip(0, examples).astype(np.int64), prepend=0, append=examples)


@dataclasses.dataclass(frozen=True)
class EqualDirichlet(Strategy):
    """See `dirichlet` with `balanced=True`."""

    alpha: float

    def _split(self, labels, clients, generator):
        by_class = members(labels, generator)[1]
        left = np.array([len(own) for own in by_class])
        prior, taken, parts = left / left.sum(), np.zeros_like(left), []
        for size in np.diff(len(labels) * np.arange(clients + 1) // clients).tolist():
            wanted = self._drawn(size, generator.dirichlet(self.alpha * prior), left, generator)
            parts.append(np.concatenate([own[a : a + b] for own, a, b in zip(by_class, taken, wanted, strict=True)]))
            taken, left = taken + wanted, left - wanted
        return parts

    def _drawn(self, size: int, q: np.ndarray, left: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """How many of each class `[K]`: `size` draws by q among what is left, which is at least `size`."""
        wanted = np.zeros_like(left)
        while (lacking := size - wanted.sum()) > 0:
            rest = left - wanted
            law = np.where(rest > 0, q, 0.0)
            if law.sum() < 1e-200:  # all that q wants has run out: another q
                law[rest > 0] = generator.dirichlet(self.alpha * rest[rest > 0] / rest.sum())
            wanted = np.minimum(wanted + generator.multinomial(lacking, law / law.sum()), left)
        return wanted


@dataclasses.dataclass(frozen=True)
class Pathological(Strategy):
    """See `pathological`."""

    classes: int

    def _split(self, labels, clients, generator):
        found, by_class = members(labels, generator)
        if self.classes > len(found) or clients * self.classes < len(found):
            raise ValueError(
                f"pathological: got {clients} clients with {self.classes} classes each, and {len(found)} classes in the labels; "
                f"expected at most {len(found)} classes per client, and places for all of them (clients·classes ≥ {len(found)})"
            )
        held, used = np.zeros((clients, len(found)), dtype=bool), np.zeros(len(found), dtype=np.int64)
        for own in held:  # the least used classes first, ties at random: all are used equally often, give or take one
            own[np.lexsort((generator.random(len(found)), used))[: self.classes]] = True
            used += own
        for k in np.flatnonzero(used > [len(own) for own in by_class]):
            raise ValueError(
                f"pathological: got {len(by_class[k])} examples of class {found[k]} for {used[k]} clients, expected one for "
                "each of them; take fewer clients, or merge rare classes"
            )
        parts = [[] for _ in range(clients)]
        for own, holders in zip(by_class, held.T, strict=True):
            for i, piece in zip(
                generator.permutation(np.flatnonzero(holders)), np.array_split(own, holders.sum()), strict=True
            ):
                parts[i].append(piece)
        return [np.concatenate(own) for own in parts]


@dataclasses.dataclass(frozen=True)
class Shards(Strategy):
    """See `shards`."""

    per_client: int

    def _split(self, labels, clients, generator):
        enough("shards", self.per_client, clients, len(labels))
        pieces = np.array_split(np.concatenate(members(labels, generator)[1]), clients * self.per_client)
        dealt = generator.permutation(len(pieces)).reshape(clients, self.per_client)
        return [np.concatenate([pieces[j] for j in own]) for own in dealt]


def dirichlet(alpha: Any, minimum: Any = 10, balanced: Any = False) -> Strategy:
    """Labels skewed by a Dirichlet law: α → ∞ approaches IID, α → 0 one class per client. Usual values are 0.1 to 1.

    By default (Yurochkin et al. 2019) the examples of every class k are cut in proportions p_k ~ Dir_n(α), independently, so that
    clients differ in size too. The draw is repeated until every client has `minimum` examples, as usual, but at most ten times;
    then those who lack some take them from the largest, which cannot fail.

    With `balanced` (Hsu et al. 2019) all clients have equally many, give or take one. Client after client draws
    q_i ~ Dir_K(α p), where p is the pooled distribution of labels, and takes examples by q_i, without replacement; of classes
    that have run out it takes none (and draws another q if no other is in q), so that the last clients take what is left.
    `minimum` then has no meaning.

    Args:
        alpha: concentration α.
        minimum: the fewest examples of a client.
        balanced: which of the two.

    Raises:
        ValueError: α not in (0, 1e12], bad `minimum`; when called, too few examples for it, or labels that are no classes.

    References: Yurochkin et al., *Bayesian nonparametric federated learning of neural networks*, 2019; Hsu, Qi and Brown,
    *Measuring the effects of non-identical data distribution for federated visual classification*, 2019.
    """
    if not (np.ndim(alpha) == 0 and 0 < alpha <= 1e12):
        raise ValueError(
            f"dirichlet alpha: got {alpha}, expected a number in (0, 1e12], e.g. 0.3; its limit at infinity is iid()"
        )
    minimum = whole("dirichlet minimum", minimum, FEWEST)
    return EqualDirichlet(float(alpha)) if balanced else Dirichlet(float(alpha), minimum)


def pathological(classes: Any = 2) -> Strategy:
    """Every client has examples of exactly so many classes.

    Classes are dealt so that all are held by equally many clients (give or take one), and those who hold a class share its
    examples equally. It is what `shards` aims at, without its surprises at the borders between classes.

    Args:
        classes: classes per client.

    Raises:
        ValueError: not an integer ≥ 1; when called, more classes than there are, classes that nobody would hold, or a class
            with fewer examples than clients that hold it.
    """
    return Pathological(whole("pathological classes", classes, "the classes that each client has"))


def shards(per_client: Any = 2) -> Strategy:
    """Sort by label, cut into n·s shards of equal size, deal s to each client (McMahan et al. 2017, with s = 2).

    A client sees at most s classes where the borders of shards and classes coincide, otherwise a few more.

    Args:
        per_client: s, shards per client.

    Raises:
        ValueError: not an integer ≥ 1; when called, fewer examples than shards.

    Reference: McMahan et al., *Communication-efficient learning of deep networks from decentralized data*, 2017.
    """
    return Shards(whole("shards per_client", per_client, "the shards that each client gets"))


def _topped_up(parts: list[np.ndarray], minimum: int) -> list[np.ndarray]:
    """Parts of at least `minimum`: the largest give what lacks, each to as few others as can be, so that these are as skewed.

    Parts that have enough are returned as they are; each is in random order.
    """
    target = raised(np.array([len(part) for part in parts]), minimum)
    spare = np.concatenate([part[size:] for part, size in zip(parts, target, strict=True)])
    kept, given = [], 0
    for part, size in zip(parts, target, strict=True):
        lacking = max(size - len(part), 0)
        kept.append(np.concatenate([part[:size], spare[given : given + lacking]]))
        given += lacking
    return kept
