"""Clusters of clients, found while their models are trained."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg._trees import minus
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import filled


class ClusterServer(eqx.Module):
    """`models`: leaves `[k, ...]`; `weights` `[k]`: of the clients that chose each model when it was last chosen by anybody."""

    models: Any
    weights: Float[Array, " k"]


class IFCA(ServerAlgorithm[Array]):
    """Iterative federated clustering: k models; every client trains the one that fits its data best.

        client   j_i ← argmin_j f_i(x_j)          (the first of several that fit alike)
                 y_i ← local solver on f_i, from x_{j_i}
                 sends e_{j_i} ⊗ (y_i − x_{j_i}) and e_{j_i}, zeros at all other models
        server   x_j ← x_j + η Σ_{i: j_i = j} w_i (y_i − x_j)/Σ_{i: j_i = j} w_i          (a model that nobody chose stays)

    Both messages are sums over clients, so that they can be added up without the server seeing who is in which cluster. The
    client's own answer is the model that it chose; the shared one, for a client with no data, that of the heaviest cluster.

    Args:
        clusters: k.
        solver: the local solver; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.
        spread: the models start at x0 plus normal noise of this standard deviation: from equal models all clients would choose
            the first for ever.
        seed: of that noise.
        starts: the k models to start from, like x0 with a leading axis k, in place of noise. Clustering is only as good as its
            start: try several seeds, or start from models of some clients' own.

    Assumptions for the claim: clusters that differ enough, and starts in their basins; then the right clusters are found and
    each model converges as in federated averaging among its own.

    Avishek Ghosh, Jichan Chung, Dong Yin, Kannan Ramchandran, *An efficient framework for clustered federated learning*,
    NeurIPS 2020.
    """

    clusters: int = eqx.field(static=True, default=2)
    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0
    spread: Real = 0.1
    seed: int = eqx.field(static=True, default=0)
    starts: Any = None

    combine: ClassVar[dict[str, Combine]] = {"models": Mean(), "members": Mean()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work", "personal"})
    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="Ghosh et al. 2020, strongly convex losses")

    def __check_init__(self):
        if not isinstance(self.clusters, int) or self.clusters < 1:
            raise ValueError(f"IFCA(clusters={self.clusters!r}): expected a whole number ≥ 1")
        if isinstance(self.spread, int | float) and not self.spread > 0 and self.starts is None and self.clusters > 1:
            raise ValueError(
                f"IFCA(spread={self.spread!r}): expected a positive number, since equal models would all stay equal; or give "
                "starts="
            )
        for leaf in jax.tree.leaves(self.starts):
            if jnp.shape(leaf)[:1] != (self.clusters,):
                raise ValueError(
                    f"IFCA(starts=…): got a leaf of shape {jnp.shape(leaf)}, expected a leading axis of {self.clusters} models"
                )

    def resolve(self, facts: Facts) -> "IFCA":
        return filled(self, facts)

    def _starts(self, x0: Any) -> Any:
        k = self.clusters
        if self.starts is not None:
            return jax.tree.map(lambda a, s: jnp.broadcast_to(jnp.asarray(s, a.dtype), (k, *a.shape)), x0, self.starts)
        leaves, structure = jax.tree.flatten(x0)
        keys = jax.random.split(jax.random.key(self.seed), len(leaves))
        noise = [jax.random.normal(key, (k, *a.shape), a.dtype) for key, a in zip(keys, leaves, strict=True)]
        noisy = [a[None] + jnp.asarray(self.spread, a.dtype) * z for a, z in zip(leaves, noise, strict=True)]
        return jax.tree.unflatten(structure, noisy)

    def _best(self, local, models: Any) -> Array:
        return jnp.argmin(jax.vmap(local.value)(models)).astype(jnp.int32)

    def init_server(self, shared, x0):
        return ClusterServer(self._starts(x0), jnp.zeros(self.clusters, shared.weights.dtype))

    def init_client(self, local, x0, context: ClientContext):
        return self._best(local, self._starts(x0))

    def broadcast(self, server: ClusterServer, context: ServerContext):
        return {"models": server.models}

    def work(self, local, client, received, context: ClientContext):
        chosen = self._best(local, received["models"])
        x = jax.tree.map(lambda leaf: leaf[chosen], received["models"])
        run = self.solver.run(local, x, context)
        place = jnp.arange(self.clusters) == chosen
        step = jax.tree.map(
            lambda a: jnp.where(place.reshape(-1, *(1,) * a.ndim), a[None], jnp.zeros((), a.dtype)), minus(run.x, x)
        )
        members = place.astype(jnp.result_type(*jax.tree.leaves(x)))
        return chosen, {"models": step, "members": members}, ClientInfo(run.loss, run.gradient_norm, run.drift(x), run.steps)

    def update(self, shared, server: ClusterServer, aggregate, context: ServerContext):
        weights = aggregate["members"]
        scale = jnp.where(weights > 0, self.server_learning_rate / jnp.where(weights > 0, weights, 1), 0)
        moved = lambda x, total: x + scale.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype) * total
        models = jax.tree.map(moved, server.models, aggregate["models"])
        kept = jnp.where(weights > 0, weights.astype(server.weights.dtype), server.weights)
        sizes = {f"cluster_{j}": weights[j] for j in range(min(self.clusters, 8))}
        return ClusterServer(models, kept), {"clusters_used": jnp.sum(weights > 0).astype(weights.dtype), **sizes}

    def estimate(self, server: ClusterServer, client) -> Any:
        chosen = jnp.argmax(server.weights) if client is None else client
        return jax.tree.map(lambda leaf: leaf[chosen], server.models)
