"""The network as the engine sees it: padded neighbour slots on the device, agent axis first."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from thalweg.network import Network

from .route import Route

# Weighted sums over more slots than this are one dense matrix product in the fast plan.
DENSE_ABOVE = 8


class World(eqx.Module):
    """Slots and weights. Every leaf has the agent axis first, so that one rule shards them all.

    `neighbours[i, s]` is the position of the agent in slot s of agent i (its own position in padding),
    `reverse[i, s]` the slot of i in that agent's list. Weights have a phase axis: `[n, phases, slots]`. Where messages take a
    `route` between devices, `neighbours` count in what it delivers.
    """

    ids: Int[Array, " n"]
    neighbours: Int[Array, "n slots"]
    neighbour_ids: Int[Array, "n slots"]
    reverse: Int[Array, "n slots"]
    mask: Bool[Array, "n slots"]
    degree: Int[Array, " n"]
    out_degree: Int[Array, "n phases"]
    active: Bool[Array, "n phases slots"]
    weights: dict[str, Float[Array, "n phases slots"]]
    self_weights: dict[str, Float[Array, "n phases"]]
    dense: dict[str, Float[Array, "n n"]]
    route: Route | None = None


class Setting(eqx.Module):
    """Schedule and failures: what is drawn in each round (static), and the probabilities (traced)."""

    schedule: str = eqx.field(static=True)  # "fixed", "periodic", "random" or "gossip"
    phases: int = eqx.field(static=True)
    directed: bool = eqx.field(static=True)
    lossy: bool = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)
    bursty: bool = eqx.field(static=True)
    sleepy: bool = eqx.field(static=True)
    longest_delay: int = eqx.field(static=True)
    loss: Array
    to_bad: Array
    to_good: Array
    asleep: Array
    delay: Array
    phase_probabilities: Array
    edges: Int[Array, "edges 2"]

    @property
    def failing(self) -> bool:
        """Whether a message that is sent can fail to arrive in its round."""
        return self.lossy or self.sleepy or self.longest_delay > 0

    @property
    def constant(self) -> bool:
        """Whether every round uses the same weights."""
        return self.schedule == "fixed" and not self.failing


def make_world(network: Network, dtype, ids: np.ndarray, kinds: frozenset[str], fast: bool) -> World:
    """Put the network on the device, with the weights of the rules in `kinds` ("mixing", "pull", "push")."""
    slots = network.slots()
    dense, weights, self_weights = {}, {}, {}
    constant = _schedule_kind(network) == "fixed" and not network.failures.any
    for kind in sorted(kinds):
        row = np.moveaxis(np.asarray(getattr(slots, kind)), 0, 1)
        weights[kind] = jnp.asarray(row, dtype)
        # Σ of a row of pull or mixing weights is one; push weights are the sender's, and keep their own diagonal.
        own = np.asarray(getattr(slots, f"{kind}_self")).T if kind == "push" else 1.0 - row.sum(-1)
        self_weights[kind] = jnp.asarray(own, dtype)
        if fast and constant and slots.mask.shape[1] > DENSE_ABOVE and 8 * slots.mask.shape[1] > network.n:
            dense[kind] = jnp.asarray(getattr(network, kind).toarray(), dtype)
    return World(
        ids=jnp.asarray(ids, jnp.int32),
        neighbours=jnp.asarray(slots.neighbours, jnp.int32),
        neighbour_ids=jnp.asarray(ids[slots.neighbours], jnp.int32),
        reverse=jnp.asarray(np.maximum(slots.reverse, 0), jnp.int32),
        mask=jnp.asarray(slots.mask),
        degree=jnp.asarray(slots.mask.sum(1), jnp.int32),
        out_degree=jnp.asarray(np.asarray(slots.out_degree).T, jnp.int32),
        active=jnp.asarray(np.moveaxis(np.asarray(slots.active), 0, 1)),
        weights=weights,
        self_weights=self_weights,
        dense=dense,
    )


def make_setting(network: Network, ids: np.ndarray) -> Setting:
    """Read schedule and failures off the network."""
    failures, kind = network.failures, _schedule_kind(network)
    schedule = network.schedule
    phases = len(schedule.networks) if kind in ("periodic", "random") else 1
    probabilities = getattr(schedule, "probabilities", None)
    to_good = 1.0 / failures.burst if failures.burst else 1.0
    to_bad = to_good * failures.loss / (1.0 - failures.loss) if failures.burst else failures.loss
    delay = failures.delay or (1.0,)
    return Setting(
        schedule=kind,
        phases=phases,
        directed=network.directed,
        lossy=failures.loss > 0,
        symmetric=failures.symmetric,
        bursty=bool(failures.burst),
        sleepy=failures.asleep > 0,
        longest_delay=len(delay) - 1,
        loss=jnp.asarray(failures.loss, jnp.float32),
        to_bad=jnp.asarray(to_bad, jnp.float32),
        to_good=jnp.asarray(to_good, jnp.float32),
        asleep=jnp.asarray(failures.asleep, jnp.float32),
        delay=jnp.asarray(np.cumsum(delay), jnp.float32),
        phase_probabilities=jnp.asarray(np.full(phases, 1 / phases) if probabilities is None else probabilities),
        # Only gossip draws from them; elsewhere their number would be one more shape to compile for.
        edges=jnp.asarray(_by_id(ids[network.edges]) if kind == "gossip" else np.zeros((0, 2)), jnp.int32),
    )


def of_phase(table: Array, phase) -> Array:
    """The rows of `table [n, phases, ...]` for one phase of the schedule."""
    return table[:, 0] if table.shape[1] == 1 else jnp.take(table, phase, axis=1)


def _by_id(edges: np.ndarray) -> np.ndarray:
    """Edges as pairs of ids in an order that depends on ids alone: the drawn edge must not depend on positions."""
    low, high = edges.min(axis=1), edges.max(axis=1)
    order = np.lexsort((high, low))
    return np.stack([low, high], axis=1)[order]


def _schedule_kind(network: Network) -> str:
    names = {"Fixed": "fixed", "Periodic": "periodic", "RandomPhase": "random", "Gossip": "gossip"}
    return names[type(network.schedule).__name__]
