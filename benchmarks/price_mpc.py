"""Distributed model predictive control: milliseconds per control step, beside a central solver.

    python -m benchmarks.price_mpc            tanks, 5 × 5 and 20 × 20 masses
    python -m benchmarks.price_mpc --quick    without 20 × 20

A horizon of 10 steps. Distributed to a relative duality gap and violation of 1e-4; cold: without a plan of the step before; warm:
with it. "here" is the wall-clock time of the simulation, all subsystems on this machine, checks and certificate included, divided
by their number. "rounds" is what it costs in messages.
"""

import argparse
import time

import numpy as np

from thalweg.apps import mpc

from .machine import describe

HORIZON, STEPS, TOLERANCE, FINE = 10, 6, 1e-4, 1e-6


def measure(plant: mpc.Plant, x: np.ndarray) -> dict[str, tuple[float, float]]:
    """name → (median seconds of a step, median rounds or iterations)."""
    found = {}
    controller = mpc.Controller(plant, HORIZON, rounds=400, first_rounds=400, tolerance=TOLERANCE, every=5)
    trajectory = mpc.closed_loop(controller, x, STEPS)  # compiles, finds the penalty
    cold = []
    for t, state in enumerate(trajectory.states[:-1]):
        controller.reset()
        began = time.perf_counter()
        plan = controller.plan(state, t)
        cold.append((time.perf_counter() - began, plan.rounds))
    warm = mpc.closed_loop(controller, x, STEPS).plans[1:]
    found["distributed, cold"] = tuple(np.median(cold, axis=0))
    found["distributed, warm"] = tuple(np.median([(plan.seconds, plan.rounds) for plan in warm], axis=0))
    for solver, tolerance in (("clarabel", 1e-8), ("osqp", 1e-5)):
        central = mpc.Central(plant, HORIZON, solver, tolerance)
        loop = mpc.closed_loop(central, x, STEPS)
        if solver == "osqp":
            found["osqp, cold"] = (loop.plans[0].seconds, loop.plans[0].rounds)
        found[f"{solver}, warm" if solver == "osqp" else solver] = tuple(
            np.median([(plan.seconds, plan.rounds) for plan in loop.plans[1:]], axis=0)
        )
        if solver == "clarabel":
            fine = mpc.Controller(plant, HORIZON, rounds=2000, first_rounds=2000, tolerance=FINE, every=5)
            costs = trajectory.cost, mpc.closed_loop(fine, x, STEPS).cost
            found["cost against it"] = tuple(cost / loop.cost - 1 for cost in costs)
    return found


def main(quick: bool = False) -> None:
    """Print everything."""
    print(describe())
    cases = {"4 tanks": mpc.tanks(), "5 × 5 masses": mpc.springs(5)} | ({} if quick else {"20 × 20 masses": mpc.springs(20)})
    for name, (plant, x) in cases.items():
        print(f"\n{name}: {plant}")
        for what, (seconds, rounds) in measure(plant, x).items():
            if what == "cost against it":
                print(
                    f"  closed-loop cost against the central one: {seconds:+.1e}, and {rounds:+.1e} to a tolerance of {FINE:.0e}"
                )
            else:
                each = 1e3 * seconds / plant.n
                print(f"  {what:<18} {1e3 * seconds:8.1f} ms per step, {each:7.3f} ms per subsystem, {rounds:4.0f} rounds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without 20 × 20")
    main(parser.parse_args().quick)
