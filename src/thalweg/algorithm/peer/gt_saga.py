"""GT-SAGA: gradient tracking with variance reduction."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix

from .gradient_tracking import GradientTracking


class GTSAGAState(eqx.Module):
    """`x`: the iterate; `y`: the tracker; `g`: the SAGA gradient at `x`; `table`: the newest gradient seen of every own
    example, leaves `[max examples, ...]`; `mean`: of the table over the own examples."""

    x: Any
    y: Any
    g: Any
    table: Any
    mean: Any


class GTSAGA(PeerAlgorithm[GTSAGAState]):
    """GT-SAGA: one example's gradient per round, and yet the optimum itself under a constant step.

        x_i ← Σ_j w_ij x_j − α y_i
        g_i = ∇φ_i,s(x_i) − t_i,s + mean_j t_i,j      s one of the m_i own examples, uniformly;   then t_i,s ← ∇φ_i,s(x_i)
        y_i ← Σ_j w_ij y_j + g_i − g_i(previous)

    with φ_i = mean_s φ_i,s, a table t_i,s(0) = ∇φ_i,s(x_i(0)) and y_i(0) = g_i(0) = ∇φ_i(x_i(0)). The table takes m_i times
    the memory of x. Agents may hold different numbers of examples. A local function that is not a mean over examples
    (`Consensus`) counts as one example: the method is then `GradientTracking(order="diging")`.

    Args:
        step_size: α. Default: that of `GradientTracking(order="diging")`, at most 1/(3m max L_i) with m the largest number of
            examples. m·L_i bounds the smoothness of every single example; if all examples are about equally smooth, a step
            up to m times larger is right.

    Ran Xin, Usman Khan, Soummya Kar, *Variance-reduced decentralized stochastic optimization with accelerated convergence*,
    IEEE Transactions on Signal Processing 68, 2020.
    """

    step_size: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"x": Mix(), "y": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "smooth"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Xin, Khan and Kar 2020, on GT-SAGA")

    def resolve(self, facts: Facts) -> "GTSAGA":
        if self.step_size is not None:
            return self
        tracking = tuned_step(GradientTracking(order="diging"), facts)
        return fill(self, step_size=min(tracking, 1 / (3 * facts.examples * facts.smoothness)))

    def init(self, local, x0, context: Context) -> GTSAGAState:
        g = local.grad(x0)
        table = jax.vmap(lambda index: _example_grad(local, x0, index))(jnp.arange(_max_examples(local)))
        return GTSAGAState(x=x0, y=g, g=g, table=table, mean=g)

    def send(self, state: GTSAGAState, context: Context):
        return {"x": state.x, "y": state.y}

    def receive(self, local, state: GTSAGAState, inbox, context: Context):
        x = axpy(-self.step_size, state.y, inbox["x"])
        count = getattr(local, "examples", 1)
        index = jax.random.randint(context.key, (), 0, count)
        new = _example_grad(local, x, index)
        change = minus(new, jax.tree.map(lambda row: row[index], state.table))
        g = plus(change, state.mean)
        state = GTSAGAState(
            x=x,
            y=plus(inbox["y"], minus(g, state.g)),
            g=g,
            table=jax.tree.map(lambda rows, row: rows.at[index].set(row), state.table, new),
            # Divided in the leaf's own dtype: 1/count of an int32 would be float32, and the mean drift from the table.
            mean=jax.tree.map(lambda mean, row: mean + row / jnp.asarray(count, row.dtype), state.mean, change),
        )
        return state, Info.of_gradient(g)

    def restart(self, local, state: GTSAGAState, context: Context) -> GTSAGAState:
        return self.init(local, state.x, context)

    def estimate(self, state: GTSAGAState):
        return state.x


def _max_examples(local) -> int:
    return getattr(local, "max_examples", 1)


def _example_grad(local, x, index):
    """∇φ_i,s, the gradient of one example; all of ∇φ_i where there are no examples."""
    return local.example_grad(x, index) if hasattr(local, "example_grad") else local.grad(x)
