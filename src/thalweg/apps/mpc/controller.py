"""Distributed model predictive control: at every step the subsystems agree on a plan, and do the first part of it.

Axes: as in `plant`; `H` steps of the horizon.
"""

import time
from typing import Any

import jax
import numpy as np

import thalweg as tw
from thalweg.apps.mpc.horizon import Horizon, later
from thalweg.apps.mpc.plan import Plan, mixed
from thalweg.apps.mpc.plant import Plant

# Factors of the penalty that are tried once, and rounds that each is given.
FACTORS = (0.2, 0.6, 2.0, 6.0, 20.0, 60.0)
TRIAL_ROUNDS = 60
RELAXATION = 1.6
# How far plans may exceed limits when no tolerance is asked for; else ten times the tolerance.
SLACK = 1e-8
# Linearisations before the first step, when there is no plan to start from.
FIRST_SWEEPS = 5


class Controller:
    """Plans for a plant whose subsystems know their own dynamics, limits and costs alone; prices make the plans agree.

    A step: everybody measures its state, prices and plans of the step before are moved on by one, and some rounds of a price
    method are made (`rounds`, fewer where `tolerance` is met). Every shape is the same at every step: nothing is compiled anew.

    With a tolerance that is met the plan is the central one. With few rounds (real-time iteration) it is not, and may break
    limits; then as much of it is taken as they allow, and the rest is the fallback: the plan that was taken the step before,
    moved on, which keeps them where its new last step does. Who does what next is checked by running the plant's model from
    the states now; sites can do that with H exchanges of states, the simulation does it in one place.

    A plant that bends (`Plant(bend=…)`) is made linear along the last plan, moved on, `sweeps` times in a step: sequential
    convexification. What is found where the sweeps stand still is a stationary point of the nonlinear problem, local at best;
    there is neither a trust region nor a line search, so that steps of the plan must be small where the model bends much. Limits
    are checked by the nonlinear model.

    Arguments:
        plant: a `Plant`.
        horizon: H.
        algorithm: a price method, as `tw.DualAscent()`; None: `tw.AcceleratedDualAscent` where budgets alone couple a linear
            plant, else `tw.ExchangeADMM` with a fixed penalty, found once by trials.
        rounds: at most so many in a step. first_rounds: in the first, before which there is time; None: at least 300.
        tolerance: relative duality gap and violation of the rows at which a step's rounds end; None: all rounds are made.
        every: rounds between two looks at the tolerance.
        fallback: inputs `[n, H, a]` that keep all limits from the first state; None: inputs at rest, and none at all.
        exact: best responses by an active set with matrices that are kept; False: by `tw.InteriorPoint`, whatever the method.
        sweeps: linearisations in a step (in the first, `FIRST_SWEEPS`), each with its own rounds; linear plants need one.
        penalty: of `tw.ExchangeADMM`, as a multiple of the one that `tw.ExchangeADMM` would choose; None: found by trials.
    """

    def __init__(
        self,
        plant: Plant,
        horizon: int,
        *,
        algorithm: Any = None,
        rounds: int = 200,
        first_rounds: int | None = None,
        tolerance: float | None = 1e-6,
        every: int = 10,
        fallback: Any = None,
        exact: bool = True,
        penalty: float | None = None,
        sweeps: int = 1,
    ):
        self.plant, self.horizon, self.rounds, self.tolerance, self.every = plant, horizon, rounds, tolerance, every
        if not isinstance(rounds, int) or rounds < 1:
            raise ValueError(f"Controller(rounds={rounds!r}): expected a whole number ≥ 1")
        if fallback is not None and np.shape(fallback) != (plant.n, horizon, plant.a):
            raise ValueError(f"fallback: got shape {np.shape(fallback)}, expected {(plant.n, horizon, plant.a)}")
        if exact and algorithm is not None and not isinstance(algorithm, tw.DualAscent | tw.AcceleratedDualAscent):
            raise ValueError(
                f"Controller: {type(algorithm).__name__} asks with penalties that may change, for which no matrices are kept; "
                "pass exact=False, or algorithm=None for tw.ExchangeADMM with the penalty that is"
            )
        self.sweeps, self.first_rounds = sweeps, max(rounds, 300) if first_rounds is None else first_rounds
        if algorithm is None and not plant.influence and plant.bend is None:
            algorithm = tw.AcceleratedDualAscent()
        self._fallback, self._asked, self._exact, self._penalty = fallback, algorithm, exact, penalty
        self._horizon: Horizon | None = None
        self._problem: tw.Coupled | None = None
        self._last: Plan | None = None

    def plan(self, x: np.ndarray, t: int = 0) -> Plan:
        """The plan from states `x` `[n, s]` at time t; it remembers the plan before. `reset()` to forget it."""
        x = np.asarray(x, float)
        if x.shape != (self.plant.n, self.plant.s):
            raise ValueError(f"plan: got states of shape {x.shape}, expected {(self.plant.n, self.plant.s)}")
        if not np.isfinite(x).all():
            raise ValueError(
                f"plan: got NaN or infinity as a state of {self.plant.names[int(np.argwhere(~np.isfinite(x))[0, 0])]}"
            )
        with jax.enable_x64(True):
            if self._horizon is None:
                self._set_up(x, t)
            began = time.perf_counter()
            backups = self._backups()
            result = self._planned(x, t, backups[0])
            planned, excess = self._horizon.inputs(result.x), lambda inputs: self._excess(x, inputs, t)
            inputs, taken = mixed(excess, planned, backups, SLACK if self.tolerance is None else 10 * self.tolerance)
            states = self.plant.rollout(x, inputs)[:, 1:]
            seconds = time.perf_counter() - began
            violation = float(excess(inputs).max(initial=0.0))
        self._last = Plan(inputs, states, result.converged, result.rounds, taken, violation, seconds, result)
        return self._last

    def reset(self) -> None:
        """Forget the last plan: the next one begins cold. What was compiled and prepared stays."""
        self._last = None

    @property
    def penalty(self) -> float | None:
        """The factor that was found or given; None before the first plan, or with another method."""
        return None if self._asked is not None else self._penalty

    def _set_up(self, x: np.ndarray, t: int) -> None:
        self._horizon = Horizon(self.plant, self.horizon, 1.0, self._exact)
        if self._asked is None:
            found = self._horizon.problem(x, t).pricing
            usual = found.touching / found.diagonal
            if self._penalty is None:
                self._penalty = self._tuned(usual, x, t)
            self._horizon = Horizon(self.plant, self.horizon, self._penalty * usual, self._exact)
        self._problem = self._horizon.problem(x, t)

    def _algorithm(self, horizon: Horizon) -> Any:
        return self._asked or tw.ExchangeADMM(penalty=horizon.row_penalty, adaptive=None, relaxation=RELAXATION)

    def _tuned(self, usual: np.ndarray, x: np.ndarray, t: int) -> float:
        """The factor after which gap and violation are smallest after some rounds."""
        scores = {}
        for factor in FACTORS:
            horizon = Horizon(self.plant, self.horizon, factor * usual, self._exact)
            last = self._solve(horizon.problem(x, t), TRIAL_ROUNDS, horizon).certificate
            scores[factor] = max(abs(last.relative_gap), last.violation)
        return min(scores, key=scores.get)

    def _planned(self, x: np.ndarray, t: int, around: np.ndarray) -> tw.Result:
        """The answer of the price method from states x; of plants that bend, along `around`."""
        horizon, total = self._horizon, self._horizon.total(t)
        rounds = self.first_rounds if self._last is None else self.rounds
        start = None if self._last is None else horizon.shifted(self._last.result.price, self._last.result.x)
        if self.plant.bend is None:
            return self._solve(self._problem.with_data(horizon.data(x), total), rounds, horizon, start)
        for _ in range(FIRST_SWEEPS if self._last is None else self.sweeps):
            states = self.plant.rollout(x, around)[:, :-1]
            model = horizon.modelled(self.plant.linearised(states, around))
            data = horizon.data(x, model, horizon.prepared(model))
            result = self._solve(self._problem.with_data(data, total), rounds, horizon, start)
            around, start = horizon.inputs(result.x), tw.WarmStart(result.price, result.x)
        return result

    def _solve(self, problem: tw.Coupled, rounds: int, horizon: Horizon, start: tw.WarmStart | None = None) -> tw.Result:
        stop = None if self.tolerance is None else tw.Stop(progress=self.tolerance, agreement=self.tolerance, patience=1)
        return tw.solve(
            problem, self._algorithm(horizon), rounds=rounds, stop=stop,
            every=rounds if stop is None else min(self.every, rounds), progress=False, keep_agents=False, start=start,
        )  # fmt: skip

    def _backups(self) -> list[np.ndarray]:
        """Inputs that may keep the limits, best first."""
        plant = self.plant
        rest = np.repeat(np.clip(plant.rest, plant.input_low, plant.input_high)[:, None], self.horizon, axis=1)
        none = np.clip(np.zeros_like(rest), plant.input_low[:, None], plant.input_high[:, None])
        if self._last is None:
            return [rest, none] if self._fallback is None else [np.asarray(self._fallback, float), rest, none]
        moved = later(self._last.inputs, 1)
        resting, ending = moved.copy(), moved.copy()
        resting[:, -1], ending[:, -1] = rest[:, -1], none[:, -1]
        return [moved, resting, ending, rest, none]

    def _excess(self, x: np.ndarray, inputs: np.ndarray, t: int) -> np.ndarray:
        return self.plant.excess(self.plant.rollout(x, inputs)[:, 1:], inputs, t)
