"""Thirty thermometers agree on the temperature of a hall, each talking to those within its reach.

No thermometer knows how many there are, and none hears them all. Run it: python examples/sensors.py
"""

import numpy as np

import thalweg as tw


def main() -> tw.Result:
    """Everybody ends with the mean of all readings, which is closer to the truth than any one of them."""
    temperature, noise = 20.5, 0.5
    readings = temperature + noise * np.random.default_rng(0).standard_normal(30)

    problem = tw.Measurements(readings.astype(np.float32))
    network = tw.network.geometric(30, seed=1)
    result = tw.solve(problem, tw.Averaging(), network, stop=tw.Stop(progress=1e-6, agreement=1e-6))

    print(result)
    print(f"one thermometer alone is off by about {noise} °C, all together by {abs(result.x - temperature):.2f} °C")
    return result


if __name__ == "__main__":
    main()
