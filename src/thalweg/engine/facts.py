"""The public constants that algorithms choose their step sizes from."""

from typing import Any

import numpy as np

from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.algorithm.base import Facts, PeerAlgorithm
from thalweg.network import Network
from thalweg.problem import Coupled, Problem


def gather_facts(problem: Problem, algorithm: PeerAlgorithm | AsynchronousAlgorithm, network: Network) -> Facts:
    """Facts of this problem on this network; smoothness is only computed for methods that use it.

    A method that `needs` it gets an error where it does not exist; one that only `handles` "constants" gets None.

    Raises:
        ValueError: the method needs a smooth or strongly convex problem and this one is not.
    """
    name = type(algorithm).__name__
    smoothness = strong = None
    required = algorithm.needs & {"smooth", "strongly_convex"}
    if required or "constants" in algorithm.handles:
        smoothness, strong = np.asarray(problem.smoothness), np.asarray(problem.strong_convexity)
        usable = np.isfinite(smoothness).all() and smoothness.max() > 0
        if not usable and required:
            raise ValueError(
                f"{name} needs smooth losses with a positive Lipschitz constant, got L_i = {smoothness.min():.4g} … "
                f"{smoothness.max():.4g}; pass smoothness= to the problem, or use a method with a prox (tw.EdgeADMM)"
            )
        if not usable:
            smoothness = strong = None
        elif "strongly_convex" in algorithm.needs and not strong.min() > 0:
            raise ValueError(
                f"{name} needs every local loss to be strongly convex, got min μ_i = {strong.min():.4g}; add tw.l2, or pass "
                "strong_convexity= to the problem"
            )
    return Facts(
        smoothness=None if smoothness is None else float(smoothness.max()),
        strong_convexity=0.0 if strong is None else float(strong.min()),
        local_smoothness=smoothness,
        n=network.n,
        examples=_examples(problem),
        source="exact" if smoothness is None else problem.constants.source,
        **of_network(network),
    )


def of_network(network: Network) -> dict[str, Any]:
    """The facts that are the network's."""
    facts, uses_mixing = network.facts, network.mixing is not None
    return {
        "sigma": float(facts.sigma if uses_mixing else max(facts.pull_sigma, facts.push_sigma)),
        "lambda_min": None if not uses_mixing or facts.lambda_min is None else float(facts.lambda_min),
        "max_degree": int(facts.max_degree),
        "min_degree": int(facts.min_degree),
        "diameter": int(facts.diameter),
        "laplacian_2": facts.laplacian_2,
        "laplacian_max": facts.laplacian_max,
    }


def _examples(problem: Problem) -> int:
    counts = getattr(problem, "counts", None)
    return 1 if counts is None else int(np.max(counts))


def of_market(problem: Coupled) -> Facts:
    """What a price method may know of the problem."""
    found = problem.pricing
    return Facts(
        smoothness=float(found.smoothness.max()),
        strong_convexity=float(found.strong_convexity.min()),
        local_smoothness=found.smoothness,
        n=problem.n,
        source=found.source,
        pricing=found,
    )
