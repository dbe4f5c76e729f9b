"""Prices: how fast markets clear, beside central solvers; which method, which penalty; control.

    python -m benchmarks.price                      # all parts
    python -m benchmarks.price --only clearing      # or: bids, penalty, control

Every ratio is of numbers measured in this one run. Each clearing runs in a process of its own, with its own memory.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import thalweg as tw  # noqa: E402

from . import price_mpc  # noqa: E402
from .machine import describe, peak_mebibytes  # noqa: E402

SLOTS = 24
SIZES = (1_000, 10_000, 100_000, 1_000_000)
CENTRAL_SIZES = (1_000, 10_000, 100_000)
LIMIT = 120.0  # seconds for a central solver
TOLERANCE = 1e-6
CENTRAL = ("clarabel", "osqp", "highs")


def market(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """n prosumers over 24 hours: each would like c_it, at a curvature of its own, within bounds of its own."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.5, 5, (n, 1))
    day = 1 + 0.5 * np.sin(2 * np.pi * (np.arange(SLOTS) - 8) / SLOTS)
    c = rng.gamma(2, 0.5, (n, 1)) * day + 0.3 * rng.normal(size=(n, SLOTS))
    low, high = c - rng.uniform(0.05, 0.5, (n, 1)), c + rng.uniform(0.05, 0.5, (n, 1))
    # Three quarters of the way to what all can save at most: many end at a bound.
    total = c.sum(0) + 0.75 * (low - c).sum(0) * (0.5 + 0.5 * np.sin(np.arange(SLOTS)))
    return {"a": a, "c": c, "low": low, "high": high, "total": total}


def ours(n: int) -> dict:
    """Seconds from the arrays to a certified answer: the first time, compilation included, and again with another day's numbers."""
    stop = tw.Stop(progress=TOLERANCE, agreement=TOLERANCE, patience=1)
    seconds = []
    for day in (1, 0):
        data = market(n, day)
        began = time.perf_counter()
        problem = tw.allocation(data["a"], data["c"], data["total"], low=data["low"], high=data["high"])
        result = tw.solve(problem, tw.AcceleratedDualAscent(), rounds=2000, every=10, stop=stop)
        seconds.append(time.perf_counter() - began)
    found = result.certificate
    return {
        "first": seconds[0], "seconds": seconds[1], "rounds": result.rounds, "objective": found.objective,
        "gap": found.relative_gap, "violation": found.violation, "sure": found.holds(TOLERANCE, TOLERANCE),
        "peak": peak_mebibytes(),
    }  # fmt: skip


def central(solver: str, n: int) -> dict:
    """Seconds of one central solve through the solver's own interface, set-up of its matrices left out."""
    import scipy.sparse as sparse

    data = market(n)
    a, c = np.broadcast_to(data["a"], data["c"].shape).ravel(), data["c"].ravel()
    low, high, b = data["low"].ravel(), data["high"].ravel(), data["total"]
    P, q, size = sparse.diags(a, format="csc"), -a * c, n * SLOTS
    A = sparse.hstack([sparse.identity(SLOTS, format="csc")] * n, format="csc")
    constant = 0.5 * float(a @ c**2)
    if solver == "clarabel":
        import clarabel

        settings = clarabel.DefaultSettings()
        settings.verbose, settings.time_limit = False, LIMIT
        identity = sparse.identity(size, format="csc")
        rows = sparse.vstack([A, identity, -identity], format="csc")
        cones = [clarabel.ZeroConeT(SLOTS), clarabel.NonnegativeConeT(2 * size)]
        began = time.perf_counter()
        found = clarabel.DefaultSolver(P, q, rows, np.concatenate([b, high, -low]), cones, settings).solve()
        seconds, x, status = time.perf_counter() - began, np.asarray(found.x), str(found.status)
    elif solver == "osqp":
        import osqp

        rows = sparse.vstack([A, sparse.identity(size, format="csc")], format="csc")
        began = time.perf_counter()
        model = osqp.OSQP()
        accuracy = {"eps_abs": 1e-6, "eps_rel": 1e-6, "max_iter": 100_000, "time_limit": LIMIT}
        model.setup(P, q, rows, np.concatenate([b, low]), np.concatenate([b, high]), verbose=False, **accuracy)
        found = model.solve()
        seconds, x, status = time.perf_counter() - began, np.asarray(found.x), found.info.status
    else:
        import highspy

        model = highspy.Highs()
        model.setOptionValue("output_flag", False)
        model.setOptionValue("time_limit", LIMIT)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_, lp.offset_ = size, SLOTS, 0.0
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = q, low, high
        lp.row_lower_ = lp.row_upper_ = b
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = A.indptr, A.indices, A.data
        hessian = highspy.HighsHessian()
        hessian.dim_, hessian.format_ = size, highspy.HessianFormat.kTriangular
        hessian.start_, hessian.index_, hessian.value_ = P.indptr, P.indices, P.data
        began = time.perf_counter()
        model.passModel(lp)
        model.passHessian(hessian)
        model.run()
        seconds, x = time.perf_counter() - began, np.asarray(model.getSolution().col_value)
        status = model.modelStatusToString(model.getModelStatus())
    objective = float(0.5 * a @ x**2 + q @ x) + constant if x.size == size else float("nan")
    total = x.reshape(n, SLOTS).sum(0) if x.size == size else np.full(SLOTS, np.nan)
    violation = float(np.max(np.abs(total - b) / np.maximum(1, np.abs(b))))
    return {"seconds": seconds, "objective": objective, "violation": violation, "status": status}


def clearing() -> None:
    """A table over n: ours, and the central solvers as far as they get."""
    print(f"\nclearing n prosumers over {SLOTS} slots, quadratic costs with a box, to a gap and violation of {TOLERANCE:.0e}")
    print("(ours: from arrays to certificate, set-up included; `first` compiles; central: the solver's call alone)")
    able = list(CENTRAL)
    for n in SIZES:
        mine = _apart("ours", n)
        print(
            f"  n = {n:>9,}  thalweg   {mine['seconds']:8.2f} s   first {mine['first']:.2f} s   {mine['rounds']} rounds, gap "
            f"{mine['gap']:.1e}, violation {mine['violation']:.1e}, certified {mine['sure']}, peak {mine['peak']:,.0f} MiB",
            flush=True,
        )
        for solver in tuple(able) if n in CENTRAL_SIZES else ():
            other = _apart(solver, n)
            if other.get("seconds", LIMIT) >= LIMIT:  # larger ones are not worth the wait
                able.remove(solver)
            if "error" in other:
                print(f"  n = {n:>9,}  {solver:<9} {other['error']}", flush=True)
                continue
            apart = (other["objective"] - mine["objective"]) / abs(mine["objective"])
            print(
                f"  n = {n:>9,}  {solver:<9} {other['seconds']:8.2f} s   {other['seconds'] / mine['seconds']:.1f}x ours, "
                f"{other['seconds'] / mine['first']:.1f}x first   {other['status']}, cost {apart:+.1e} relative to ours, violation "
                f"{other['violation']:.1e}",
                flush=True,
            )


def _apart(who: str, n: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.price", "--one", who, str(n)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=4 * LIMIT)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {4 * LIMIT:.0f} s"}
    if done.returncode:
        return {"error": f"ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:] or 'killed'}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def bids() -> None:
    """Linear bids with sparse rows: rounds and seconds to 1e-4, beside a plain dual subgradient."""
    rng = np.random.default_rng(0)
    n, m, touched = 2000, 40, 3
    rows = np.array([rng.choice(m, touched, replace=False) for _ in range(n)])
    use, worth = rng.uniform(0.2, 1, (n, touched)), rng.uniform(1, 10, n)
    demand = np.zeros(m)
    np.add.at(demand, rows, use)
    problem = tw.Coupled(
        _linear_cost, {"worth": worth, "use": use}, coupling=_used, total=0.4 * demand, sense="<=", x0=jnp.zeros(()), rows=rows,
        local=tw.box(0.0, 1.0), solver=tw.ClosedForm(_linear_response, True), smoothness=np.inf, strong_convexity=0.0,
    )  # fmt: skip
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((use.ravel(), (rows.ravel(), np.repeat(np.arange(n), touched))), shape=(m, n))
    best = linprog(-worth, A_ub=matrix, b_ub=0.4 * demand, bounds=(0, 1)).fun
    print(
        f"\nresource allocation LP: {n} agents, {m} rows, {touched} rows each, to 1e-4 in gap and violation (optimum {best:.6g})"
    )
    for algorithm, rounds in (
        (tw.ProximalBundle(cuts=60), 2000), (tw.ExchangeADMM(), 5000), (tw.ExchangeADMM(adaptive="spectral"), 5000),
        (tw.DualSubgradient(), 50_000),
    ):  # fmt: skip
        stop = tw.Stop(progress=1e-4, agreement=1e-4, patience=1)
        result = tw.solve(problem, algorithm, rounds=rounds, every=10, stop=stop)
        found, name = result.certificate, type(algorithm).__name__ + (" spectral" if "spectral" in str(algorithm) else "")
        print(
            f"  {name:<24} {result.rounds:>7,} rounds  {result.ledger.seconds:7.2f} s   {result.outcome.value}: gap "
            f"{found.relative_gap:.1e}, violation {found.violation:.1e}, cost {(found.objective - best) / abs(best):+.1e}",
            flush=True,
        )


def _linear_cost(x, data):
    return -data["worth"] * x


def _used(x, data):
    return data["use"] * x


def _linear_response(question, data):
    push, stiff = data["worth"] - jnp.sum(data["use"] * question.price), 0.0
    if question.penalty is not None:
        push = push + jnp.sum(question.penalty * data["use"] * question.target)
        stiff = jnp.sum(question.penalty * data["use"] ** 2)
    if question.pull is not None:
        push, stiff = push + question.pull * question.anchor, stiff + question.pull
    return jnp.clip(push / stiff, 0, 1) if question.augmented else jnp.where(push > 0, 1.0, 0.0)


SWEEP = 10.0 ** np.arange(-1.5, 1.6, 0.25)


def penalty(problems: int = 20) -> None:
    """Rounds to a relative error of 1e-5 in the plans: the adaptive default beside the best penalty of a sweep."""
    print("\n100 agents with 50-variable QPs: rounds to 1e-5, adaptive default against the best of a sweep of 13 penalties")
    for name, run in (("exchange", _exchange), ("consensus", _consensus)):
        for spread in (0.0, 1.5):
            ratios = []
            for seed in range(problems // 2):
                default, swept = run(seed, spread)
                ratios.append(default / swept)
            said = "well scaled " if spread == 0 else "badly scaled"
            print(
                f"  {name:<10} {said} {len(ratios)} problems: default/best {np.median(ratios):.2f} in the median, "
                f"{max(ratios):.2f} at worst",
                flush=True,
            )


def _qps(seed: int, spread: float, n: int = 100, d: int = 50):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-spread, spread, d)
    H = np.empty((n, d, d))
    for i in range(n):
        Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
        H[i] = scale[:, None] * (Q * 10.0 ** (rng.uniform(-1, 1, d) + rng.uniform(-0.5, 0.5))) @ Q.T * scale
    return (H + H.swapaxes(1, 2)) / 2, rng.normal(size=(n, d)) * scale, 10 * rng.normal(size=d) / scale


def _form(x, data):
    return 0.5 * x @ data["H"] @ x + data["q"] @ x


def _all(x, data):
    return x


def _form_response(question, data):
    push, stiff = -data["q"] - question.price, jnp.diagonal(data["H"])
    extra = jnp.zeros_like(stiff)
    if question.penalty is not None:
        push, extra = push + question.penalty * question.target, extra + question.penalty
    return jax.scipy.sparse.linalg.cg(
        lambda v: data["H"] @ v + extra * v, push, tol=1e-12, maxiter=200, M=lambda v: v / (stiff + extra)
    )[0]


def _exchange(seed: int, spread: float) -> tuple[int, int]:
    H, q, b = _qps(seed, spread)
    problem = tw.Coupled(
        _form, {"H": H, "q": q}, coupling=_all, total=b, x0=jnp.zeros(len(b)), solver=tw.ClosedForm(_form_response, True)
    )
    inverse = np.linalg.inv(H)
    price = np.linalg.solve(inverse.sum(0), -np.einsum("ijk,ik->j", inverse, q) - b)
    x = -np.einsum("ijk,ik->ij", inverse, q + price)
    stop = tw.Stop(below={"error": 1e-5 * float(np.linalg.norm(x))})
    run = lambda algorithm: tw.solve(problem, algorithm, rounds=600, every=2, reference=jnp.asarray(x), stop=stop).rounds
    # The sweep is helped: it multiplies the penalty per row that the default begins with, else bad scaling defeats it.
    base = len(H) / np.diagonal(inverse.sum(0))
    swept = [run(tw.ExchangeADMM(penalty=factor * base, adaptive=None, relaxation=1.0)) for factor in SWEEP]
    return run(tw.ExchangeADMM()), min(swept)


def _consensus(seed: int, spread: float) -> tuple[int, int]:
    H, q, _ = _qps(seed, spread)
    problem = tw.quadratic(H, q)
    x = np.linalg.solve(H.sum(0), -q.sum(0))
    stop = tw.Stop(below={"error": 1e-5 * float(np.linalg.norm(x))})
    run = lambda algorithm: tw.solve(problem, algorithm, rounds=600, every=2, reference=jnp.asarray(x), stop=stop).rounds
    base = float(np.sqrt(problem.smoothness.max() * max(problem.strong_convexity.min(), problem.smoothness.max() / 100)))
    swept = [run(tw.ConsensusADMM(penalty=float(factor * base))) for factor in SWEEP]
    return run(tw.ConsensusADMM(adaptive=True, relaxation=1.6)), min(swept)


PARTS = {"clearing": clearing, "bids": bids, "penalty": penalty, "control": price_mpc.main}


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=PARTS, nargs="*", default=list(PARTS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    if options.one:
        who, n = options.one[0], int(options.one[1])
        print(json.dumps(ours(n) if who == "ours" else central(who, n)))
        return
    print(f"python -m benchmarks.price {' '.join(sys.argv[1:])}\n{describe()}, seed 0")
    for name in options.only:
        PARTS[name]()


if __name__ == "__main__":
    main()
