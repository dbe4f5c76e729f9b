"""The contract: an algorithm is what one agent sends and what it does with what arrives.

An algorithm is written once, from one agent's point of view, as pure functions over frozen pytrees. It never learns
how many agents there are, which of them it is, or where it runs.
"""

import abc
from typing import Any, ClassVar, Generic, Literal, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg._trees import norm
from thalweg.message.combine import Combine

State = TypeVar("State")
Message = dict[str, Any]


class Context(eqx.Module):
    """What an agent really knows of its neighbourhood, in one round.

    Attributes:
        key: this agent's own random key for this round, phase and role.
        round: k, counted from 0.
        phase: name of the phase of the round (static).
        degree: number of neighbours (in-neighbours on a directed graph).
        out_degree: number of out-neighbours.
        mask: `[max_degree]`, which neighbour slots exist.
        weights: `[max_degree]`, own row of the mixing matrix (zeros where the network has none).
        self_weight: own diagonal entry.
        awake: whether this agent takes part in this round.
        sent: in `receive`, the agent's own message as its neighbours decode it.
    """

    # Shapes are those of one agent; the engine builds the contexts of all agents at once, with an axis in front.
    key: Array
    round: Array
    degree: Array
    out_degree: Array
    mask: Array
    weights: Array
    self_weight: Array
    awake: Array
    sent: Message | None = None
    phase: str = eqx.field(static=True, default="round")


class Info(eqx.Module):
    """What an agent learnt in a round and keeps to itself, unless `report=` lists it.

    Attributes:
        gradient_norm: ‖∇φ_i‖ of the (possibly stochastic) gradient used, NaN where none was.
    """

    gradient_norm: Float[Array, ""]

    @classmethod
    def of_gradient(cls, gradient: Any) -> "Info":
        """Of a round that used `gradient`."""
        return cls(norm(gradient))

    @classmethod
    def none(cls) -> "Info":
        """Of a round without a gradient."""
        return cls(jnp.asarray(jnp.nan))


class Facts(eqx.Module):
    """Public constants that an algorithm may use to choose what was left open (`resolve`), before round 0.

    Deployed sites get them by max- and min-consensus. φ_i = n·w_i·f_i is the scaled local function of a peer; for a client
    of a server φ_i is f_i itself, and what concerns a network is left at its default.

    Attributes:
        smoothness: max_i L_i, Lipschitz constant of ∇φ_i; None where f is not smooth.
        strong_convexity: min_i μ_i of φ_i (0 when merely convex).
        local_smoothness: `[n]`, each agent's own L_i.
        sigma: second largest eigenvalue modulus of the mixing matrix (of the mean matrix under a schedule).
        lambda_min: smallest eigenvalue of a symmetric mixing matrix, else None.
        max_degree: largest number of neighbours.
        diameter: largest distance between two agents.
        examples: largest number of examples that one agent holds (1 where a local function is not a mean).
        source: how the constants were found: "exact", "given" or "estimated".
        pricing: of a coupled problem, the constants of its dual.
        participation: the part of the agents whose answers arrive in a round, at the least.
        contraction: δ of the link's compression, E‖C(m) − m‖² ≤ (1 − δ)‖m‖²; None where it is not known.
        variance: ω of the link's compression, if it is unbiased, E‖C(m) − m‖² ≤ ω‖m‖²; else None.
    """

    smoothness: float | None
    strong_convexity: float
    local_smoothness: np.ndarray | None
    n: int
    sigma: float = 0.0
    lambda_min: float | None = None
    max_degree: int = 0
    min_degree: int = 0
    diameter: int = 0
    laplacian_2: float | None = None
    laplacian_max: float | None = None
    examples: int = 1
    source: str = "exact"
    pricing: Any = None
    participation: float = 1.0
    contraction: float | None = 1.0
    variance: float | None = 0.0

    @property
    def condition_number(self) -> float:
        """κ = max L_i / min μ_i; infinity without strong convexity."""
        return self.smoothness / self.strong_convexity if self.strong_convexity > 0 else float("inf")


class Claims(eqx.Module):
    """What an algorithm promises; one test over all exports holds it to this.

    Attributes:
        exact: the limit is the optimum itself under a constant step size (else a neighbourhood of it).
        rate: "linear" on smooth strongly convex problems, "sublinear", or "finite".
        theorem: where the claim is proved.
        centralised_on_complete: on a complete graph with uniform weights, equals the central method.
    """

    exact: bool
    rate: Literal["linear", "sublinear", "finite"]
    theorem: str
    centralised_on_complete: bool = False


class PeerAlgorithm(eqx.Module, Generic[State]):
    """Neighbours, no centre.

    Float hyper-parameters are traced (changing one compiles nothing); integers, booleans and strings are static.
    A float field may hold `PerAgent(values)` to differ between agents.

    Class attributes:
        combine: rule for each field of the message.
        phases: names of the message exchanges of one round; each is one `send` and one `receive`.
        needs: facts that must hold: "undirected", "symmetric", "doubly_stochastic", "smooth", "strongly_convex",
            "fixed" (no schedule), "reliable" (no failures), "positive_definite" (λ_min(W) > 0) or "measurements".
        handles: what it can use beyond gradients: "regularizer" (through its prox), "stochastic".
        exact_under: failures under which the claim still holds, of "symmetric", "independent", "asleep", "delay".
    """

    combine: ClassVar[dict[str, Combine]]
    phases: ClassVar[tuple[str, ...]] = ("round",)
    needs: ClassVar[frozenset[str]] = frozenset()
    handles: ClassVar[frozenset[str]] = frozenset()
    claims: ClassVar[Claims]
    exact_under: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def resolve(self, facts: Facts) -> "PeerAlgorithm":
        """Fill what was left None (step sizes), once, before round 0."""

    @abc.abstractmethod
    def init(self, local, x0, context: Context) -> State:
        """State of one agent before round 0."""

    @abc.abstractmethod
    def send(self, state: State, context: Context) -> Message:
        """The message of this phase; all that leaves the agent."""

    @abc.abstractmethod
    def receive(self, local, state: State, inbox: Message, context: Context) -> tuple[State, Info]:
        """The next state, from the combined messages."""

    @abc.abstractmethod
    def restart(self, local, state: State, context: Context) -> State:
        """State in a new epoch (after a crash or a change of members): conserved quantities are rebuilt.

        `state` is the agent's own record of the epoch before, `local` and `context` are those of the new one. What has one
        entry per neighbour belongs to the old neighbours: it is not read, and the result has the shapes of `init`'s.
        Agents that join call `init`, at the problem's x0.
        """

    @abc.abstractmethod
    def estimate(self, state: State) -> Any:
        """The agent's answer now."""

    def step_bound(self, facts: Facts) -> float | np.ndarray | None:
        """Largest step size under which convergence is proved, where a bound is known; `[n]` if each agent has its own."""
        return None

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray | None:
        """Iteration matrix of one mixing mode when every φ_i has Hessian `curvature`·I and W has `eigenvalue`.

        The spectral radius over all modes is the predicted rate; None where the recursion is not of this form.
        """
        return None
