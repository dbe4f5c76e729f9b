"""When to stop: no significant progress and strong agreement, both, with patience.

Two evaluations of the same rule:

- from global measures, in the simulated engines (`Stop()`), at recorded rounds;
- distributed (`Stop(distributed=True)`), from what an agent can know. Rounds are grouped in windows of T ≥ diameter.
  At the start of a window every agent sets its flag to "calm" (it moved less than `progress` per round over the last
  window) and digests its estimate to a few random projections, the same for everybody. During the window flags spread
  by min-consensus, the projections by max- and min-consensus; an agent that misses a message from a neighbour clears
  its flag. After T rounds, an agent whose flag still stands has heard of everybody: the spread of every projection
  bounds the disagreement (in one variable surely; in several, a disagreement of c tolerances passes a window with a
  probability of about c^−PROJECTIONS). After `patience` such windows in a row it stops and says so; who hears it stops too.

Soundness under loss: by induction over the hops of a path from l to i, after t rounds the agent at hop t has l's values
or a cleared flag; so a standing flag at i after T ≥ diameter rounds means that i has heard everybody, and nobody
stops before all agree. Without loss, and with everybody awake, all flags are equal and all stop in the same round.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from thalweg.algorithm.step import Real, Whole
from thalweg.message.payload import PROJECTIONS

from .keys import Stream, round_key
from .weather import Conditions
from .world import World


class Stop(eqx.Module):
    """Stop when the agents no longer move and agree with each other.

    Attributes:
        progress: largest movement per round, relative to 1 + ‖x‖ (root mean square over agents).
        agreement: largest consensus error, relative to 1 + ‖x‖.
        patience: how many records (windows, when distributed) in a row both must hold.
        distributed: decide from what agents know (module docstring) instead of from global measures.
        diameter: T, a bound on the diameter for the distributed rule; the network's own when None.

    Besides, any of these ends a run, at the first record where it holds (columns of the history):
        above, below: name → value; all of them reached.
        no_better: (name, "min" or "max", number of records without a new best).
        clock: simulated seconds on the fleet; bytes: payload sent by all agents.
    """

    progress: Real = 1e-8
    agreement: Real = 1e-8
    patience: int = eqx.field(static=True, default=3)
    distributed: bool = eqx.field(static=True, default=False)
    diameter: Whole | None = None
    above: dict[str, float] | None = eqx.field(static=True, default=None)
    below: dict[str, float] | None = eqx.field(static=True, default=None)
    no_better: tuple[str, str, int] | None = eqx.field(static=True, default=None)
    clock: float | None = eqx.field(static=True, default=None)
    bytes: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.no_better is not None and not (
            isinstance(self.no_better, tuple) and len(self.no_better) == 3 and self.no_better[1] in ("min", "max")
        ):
            raise ValueError(f"Stop(no_better={self.no_better!r}): expected (column, 'min' or 'max', records)")
        for name in ("clock", "bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Stop({name}={value!r}): expected a positive number, or None")
        for name in ("progress", "agreement"):
            value = getattr(self, name)
            if isinstance(value, float | int) and not value > 0:
                raise ValueError(f"Stop({name}={value!r}): expected a positive tolerance")
        if self.patience < 1:
            raise ValueError(f"Stop(patience={self.patience}): expected at least 1")
        if isinstance(self.diameter, int) and self.diameter < 1:
            raise ValueError(f"Stop(diameter={self.diameter}): expected at least 1")


def settled(stop: Stop, snapshot: Any) -> Bool[Array, ""]:
    """Whether both conditions hold in this record, from global measures (`movement`, `consensus_error`, `scale`)."""
    calm = snapshot.movement <= stop.progress * snapshot.scale
    return calm & (snapshot.consensus_error <= stop.agreement * snapshot.scale)


class Flags(eqx.Module):
    """An agent's part in the distributed rule; agent axis first.

    `anchor` is the estimate at the start of the window, `low` and `high` the projections heard so far, `standing`
    the flag, `windows` how many windows in a row were agreed, `done` the decision.
    """

    anchor: Float[Array, "n d"]
    low: Float[Array, "n projections"]
    high: Float[Array, "n projections"]
    standing: Bool[Array, " n"]
    windows: Int[Array, " n"]
    done: Bool[Array, " n"]


def first_flags(estimates: Float[Array, "n d"]) -> Flags:
    """Before the first window nobody is calm."""
    n = estimates.shape[0]
    nothing = jnp.zeros((n, PROJECTIONS), estimates.dtype)
    no = jnp.zeros(n, bool)
    return Flags(estimates, nothing, nothing, no, jnp.zeros(n, jnp.int32), no)


def told(flags: Flags) -> tuple:
    """What an agent's neighbours hear of its flags, in the header of the round's first message."""
    return flags.low, flags.high, flags.standing, flags.done


def exchange_flags(
    executor, stop: Stop, run: PRNGKeyArray, world: World, flags: Flags, headers: tuple, weather: Conditions, estimates, k
) -> Flags:
    """One round of the distributed rule; `headers` are what all whom `world.neighbours` names have `told`."""
    window = jnp.asarray(stop.diameter, jnp.int32)
    low, high, standing, done = headers
    heard, mask = weather.arrived, world.mask
    at = world.neighbours

    def spread(own, theirs, pick):
        theirs = jnp.where(heard[..., None], theirs[at], own[:, None])
        return pick(jnp.concatenate([own[:, None], theirs], axis=1), axis=1)

    low, high = spread(flags.low, low, jnp.min), spread(flags.high, high, jnp.max)
    complete = jnp.all(heard | ~mask, axis=1) & weather.awake
    standing = flags.standing & complete & jnp.all(standing[at] | ~heard, axis=1)
    done = flags.done | jnp.any(done[at] & heard, axis=1)

    def own(stop, directions, x, anchor):
        size = 1 + jnp.sqrt(jnp.sum(x**2))
        moved = jnp.sqrt(jnp.sum((x - anchor) ** 2))
        calm = moved <= stop.progress * size * window.astype(x.dtype)
        return jnp.sum(x[:, None] * directions, axis=0), stop.agreement * size, calm

    directions = _directions(run, k + 1, estimates)
    roles = executor.role("digest", own, stop, directions, estimates, flags.anchor, axes=(None, None, 0, 0))
    digest, allowed, calm = roles
    agreed = standing & jnp.all(high - low <= allowed[:, None], axis=1)
    windows = jnp.where(agreed, flags.windows + 1, 0)

    last = (k + 1) % window == 0
    choose = lambda a, b: jnp.where(last, a, b)
    return Flags(
        anchor=choose(estimates, flags.anchor),
        low=choose(digest, low),
        high=choose(digest, high),
        standing=choose(calm, standing),
        windows=choose(windows, flags.windows),
        done=done | (last & (windows >= stop.patience)),
    )


def _directions(run, k, estimates):
    """`[d, projections]` random directions, the same for all agents, new in every window.

    Entries are ±u with u in [1, 2): one variable is never shrunk, and no pattern of several cancels but by chance.
    """
    shape, dtype = (estimates.shape[1], PROJECTIONS), estimates.dtype
    sign, size = jax.random.split(round_key(run, Stream.STOP, k))
    return jax.random.rademacher(sign, shape, dtype) * jax.random.uniform(size, shape, dtype, 1, 2)
