"""Plants: two factories with one power limit, a chain of water tanks, a grid of masses and springs."""

import numpy as np

from thalweg.apps.mpc.plant import Plant, Subsystem


def factories(limit: float = 3.0) -> tuple[Plant, np.ndarray]:
    """(plant, first states): two factories fill their stocks, and share a limit on power.

    A factory's stock loses its demand in every step and gains what its power makes; both want a stock of 10 units.
    """
    common = {
        "A": 1.0,
        "B": 1.0,
        "Q": 1.0,
        "R": 0.1,
        "target": 10.0,
        "low": 0.0,
        "input_low": 0.0,
        "input_high": 2.5,
        "use": 1.0,
    }
    east, west = Subsystem(drift=-1.0, rest=1.0, **common), Subsystem(drift=-1.2, rest=1.2, **common)
    return Plant({"east": east, "west": west}, budget=limit), np.array([[4.0], [6.0]])


def tanks(n: int = 4, pumps: float = 1.0) -> tuple[Plant, np.ndarray]:
    """(plant, first states): each tank drains into the next one below, and all pumps share one supply.

    x⁺ = 0.8 x + 0.2 x_above + u: levels around 1, within ±0.8; u within ±0.5 of the flow at rest.
    """
    names = [f"tank {i}" for i in range(n)]
    tank = lambda i: Subsystem(
        A=0.8, B=1.0, Q=1.0, R=0.5, influence={names[i - 1]: [[0.2]]} if i else {}, low=-0.8, high=0.8, input_low=-0.5,
        input_high=0.5, use=1.0,
    )  # fmt: skip
    levels = -0.7 * np.abs(np.cos(2.0 * np.arange(n)))[:, None]
    return Plant({name: tank(i) for i, name in enumerate(names)}, budget=pumps * 0.05 * n), levels


def springs(side: int = 5, seed: int = 0, dt: float = 0.2) -> tuple[Plant, np.ndarray]:
    """(plant, first states): side × side masses, each held by a spring to its place and by springs to its neighbours.

    A mass knows its displacement p and speed v: v⁺ = v + dt·(u − p/2 − v/5 + Σ_j (p_j − p)), p⁺ = p + dt·v⁺, |u| ≤ 0.4, |p| ≤ 1.
    """
    name = lambda i, j: f"mass {i},{j}"
    subsystems = {}
    for i in range(side):
        for j in range(side):
            around = [(i + di, j + dj) for di, dj in ((0, 1), (0, -1), (1, 0), (-1, 0))]
            around = [(a, b) for a, b in around if 0 <= a < side and 0 <= b < side]
            stiffness, keeps = dt * (0.5 + len(around)), 1 - 0.2 * dt
            A = [[1 - dt * stiffness, dt * keeps], [-stiffness, keeps]]
            influence = {name(*other): [[dt**2, 0.0], [dt, 0.0]] for other in around}
            subsystems[name(i, j)] = Subsystem(
                A=A, B=[[dt**2], [dt]], Q=[1.0, 0.1], R=0.1, influence=influence, low=[-1, -np.inf], high=[1, np.inf],
                input_low=-0.4, input_high=0.4,
            )  # fmt: skip
    rng = np.random.default_rng(seed)
    return Plant(subsystems), np.stack([rng.uniform(-0.5, 0.5, side**2), np.zeros(side**2)], axis=1)
