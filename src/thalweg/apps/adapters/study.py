"""Does this line follow that one? Every speaker trains on its own lines; only adapters are sent.

    score = s·cos(e(first), e(second)) + c         e: MiniLM with adapters on the queries and values of every layer

Half of a speaker's pairs are lines that follow one another, half are not.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

import thalweg as tw
from thalweg.data.plays import ALPHABET

from .minilm import Encoder, load, tokenise


@dataclasses.dataclass(frozen=True)
class FollowOn:
    """loss(x, (first, second, label), frozen): the logistic loss of the score above; x = {"adapters", "scale", "bias"}."""

    encoder: Encoder

    def predict(self, x: dict[str, Any], features: Any, frozen: Any) -> jax.Array:
        """The score of (first, second)."""
        params = tw.models.attach(frozen, x["adapters"])
        first, second = (self.encoder(params, text) for text in features)
        return x["scale"] * (first @ second) + x["bias"]

    def __call__(self, x: dict[str, Any], example: Any, frozen: Any) -> jax.Array:
        features, label = example
        return tw.losses.logistic(self.predict(x, features, frozen), label)


def pairs(lines: list[str], vocabulary: list[str], length: int, seed: int) -> tuple[Any, np.ndarray]:
    """((first, second), label `[m]`) of one speaker's lines: each with the next one or with another, in turn.

    Raises:
        ValueError: fewer than four lines.
    """
    if len(lines) < 4:
        raise ValueError(f"pairs: got {len(lines)} lines of a speaker, expected at least 4")
    rng = np.random.default_rng(seed)
    tokens, mask = tokenise(lines, vocabulary, length)
    first = np.arange(len(lines) - 1)
    label = (first % 2 == 0).astype(np.float32)
    # Another line: not this one, not the next.
    other = (first + 2 + rng.integers(0, len(lines) - 2, len(first))) % len(lines)
    second = np.where(label == 1, first + 1, other)
    text = lambda rows: (tokens[rows], mask[rows])
    return (text(first), text(second)), label


def study(
    *, plays: list[str] | None = None, speakers: int = 6, rank: int = 4, rounds: int = 10, rate: float = 0.1, lines: int = 40,
    window: int = 80, length: int = 28, seed: int = 0,
) -> tuple[tw.Result, dict[str, Any]]:  # fmt: skip
    """(result, pretrained parameters): adapters by federated averaging, with every speaker's own fine-tuned ones beside them.

    Args:
        plays: as for `tw.data.shakespeare`.
        speakers: those with the most lines.
        rank: of the adapters.
        rounds: of federated averaging, each one pass over the own pairs in minibatches of 8.
        rate: local learning rate.
        lines: used of each speaker, at most; a quarter as many are held out.
        window: characters of a line.
        length: tokens of a line.
        seed: of everything random.
    """
    encoder, params, vocabulary = load()
    data = tw.data.shakespeare(0.25, window=window, plays=plays or ["hamlet", "macbeth"])
    order = sorted(range(data.n), key=lambda i: -len(data.train[i][0]))[:speakers]
    text = lambda part, most: ["".join(ALPHABET[c] for c in row) for row in part[0][:most]]
    made = lambda parts, most: [pairs(text(parts[i], most), vocabulary, length, seed + i) for i in order]
    targets = lambda path, leaf: path.endswith(("query/weight", "value/weight"))
    adapters = tw.models.lora(jax.tree.map(jax.numpy.asarray, params), rank, targets, key=jax.random.key(seed))
    x0 = {"adapters": adapters, "scale": np.float32(5), "bias": np.float32(-1)}
    loss = FollowOn(encoder)
    problem = tw.EmpiricalRisk(loss, made(data.train, lines), x0, frozen=params, names=[data.names[i] for i in order])
    held = made(data.test, max(4, lines // 4))
    algorithm = tw.FineTune(tw.LocalSGD(rate, epochs=1, batch_size=8, clip=1.0))
    result = tw.solve(
        problem, algorithm, rounds=rounds, every=max(1, rounds // 2), seed=seed,
        evaluate={"accuracy": (tw.models.accuracy(loss), held), "held_loss": (loss, held)},
    )  # fmt: skip
    return result, params
