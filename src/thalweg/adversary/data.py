"""Lies in the data: what a client was told, or was made to learn. Functions of arrays; nothing of a run changes.

Axes: `n` clients, `m` examples of each; or a list with `[m_i, ...]` for each client.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def flip_labels(labels: Any, agents: Sequence[int], classes: int) -> Any:
    """Labels `[n, m]`, or a list of `[m_i]`, of whole numbers below `classes`: those of `agents` turned into classes − 1 − y.

    Minghong Fang, Xiaoyu Cao, Jinyuan Jia, Neil Zhenqiang Gong, *Local model poisoning attacks to Byzantine-robust federated
    learning*, USENIX Security 2020.
    """
    changed = _copied(labels)
    for i in agents:
        changed[i] = classes - 1 - changed[i]
    return changed


def backdoor(
    examples: Any,
    labels: Any,
    agents: Sequence[int],
    trigger: Callable[[np.ndarray], np.ndarray],
    target: int,
    share: float = 0.5,
    *,
    seed: int,
) -> tuple[Any, Any]:
    """(examples, labels) in which a `share` of what `agents` hold bears a trigger and the label `target`.

    Args:
        examples: `[n, m, ...]`, or a list of `[m_i, ...]`; labels: `[n, m]`, or a list of `[m_i]`.
        trigger: makes of examples `[k, ...]` the same with the trigger, for instance a bright corner.
        share: of every one of these agents' examples, rounded up; which ones, `seed` decides.

    Eugene Bagdasaryan, Andreas Veit, Yiqing Hua, Deborah Estrin, Vitaly Shmatikov, *How to backdoor federated learning*, AISTATS
    2020.

    Raises:
        ValueError: the share is none.
    """
    if not 0 < share <= 1:
        raise ValueError(f"backdoor(share={share!r}): expected a number in (0, 1]")
    rng = np.random.default_rng(seed)
    examples, labels = _copied(examples), _copied(labels)
    for i in agents:
        chosen = rng.choice(len(labels[i]), int(np.ceil(share * len(labels[i]))), replace=False)
        examples[i][chosen] = trigger(examples[i][chosen])
        labels[i][chosen] = target
    return examples, labels


def _copied(values: Any) -> Any:
    return [np.array(each) for each in values] if isinstance(values, list | tuple) else np.array(values)
