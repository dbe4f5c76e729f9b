"""Methods side by side, over seeds: what each needs to reach a target."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .comparison import Comparison, Method
from .describing import describe
from .result import Result

UNKNOWN = "unknown"


def compare(
    runs: Any,
    *,
    above: Mapping[str, float] | None = None,
    below: Mapping[str, float] | None = None,
    final: Sequence[str] = (),
) -> Comparison:
    """What each method needs to reach a target, over seeds: rounds, bytes, simulated seconds, seconds.

        runs = {
            name: [tw.solve(problem, method, rounds=200, seed=seed, evaluate=evaluate) for seed in range(5)]
            for name, method in {"FedAvg": tw.FedAvg(cohort=10), "SCAFFOLD": tw.SCAFFOLD(cohort=10)}.items()
        }
        print(tw.compare(runs, above={"accuracy": 0.8}))

    Args:
        runs: name → results of one method, one per seed; or a plain list, whose methods are named by their algorithms.
        above, below: the target, name of a column of the history → value, as in `tw.Stop`: reached in the first record in
            which every column of `above` is at least, and every one of `below` at most, its value. None: final values only.
        final: more columns whose last values are shown, beside those of the target.

    A run that never reaches the target counts as later than any that does, so that the median over seeds is one of all seeds.

    Raises:
        TypeError: something is not a `Result`.
        ValueError: what cannot be compared fairly: runs of different problems, evaluations or optima; of one method with
            different settings, or twice with one seed; a column that some run does not have.
    """
    methods = {name: _seeds(name, found) for name, found in _named(runs).items()}
    target = {**(above or {}), **(below or {})}
    _check_target(above or {}, below or {}, target)
    everything = [run for method in methods.values() for run in method]
    columns = (*target, *final)
    _check_columns(methods, columns)
    _check_same(methods, "problem", lambda run: run.config.get("fingerprint", UNKNOWN), "solve(problem, …) with one problem")
    for name in columns:
        # The mean of clients, its worst tenth and so on come from one evaluation.
        stem = max((key for key in everything[0].config.get("evaluate", {}) if name.startswith(key)), key=len, default=None)
        if stem is not None:
            said = lambda run, stem=stem: run.config.get("evaluate", {}).get(stem, UNKNOWN)
            _check_same(methods, f"evaluation {stem!r}", said, "pass the same evaluate= to every solve")
    if {"gap", "error"} & set(columns):
        _check_optimum(methods, target.get("gap", np.inf))
    return Comparison(
        tuple(Method.of(name, method, above or {}, below or {}) for name, method in methods.items()),
        dict(above or {}),
        dict(below or {}),
        _shown(everything, target, above or {}, final),
    )


def _named(runs: Any) -> dict[str, Any]:
    """name → results, however they were given."""
    if isinstance(runs, Result):
        raise TypeError("compare: got one Result, expected {name: [Result, …]} or a list of results")
    if isinstance(runs, Mapping):
        found = {str(name): [given] if isinstance(given, Result) else given for name, given in runs.items()}
    elif isinstance(runs, Sequence) and not isinstance(runs, str):
        for run in runs:
            _check_result("the list", run)
        settings: dict[str, list[Result]] = {}
        for run in runs:
            settings.setdefault(_settings(run), []).append(run)
        short = [type(group[0].algorithm).__name__ for group in settings.values()]
        found = {
            name if short.count(name) == 1 else setting: group
            for name, (setting, group) in zip(short, settings.items(), strict=True)
        }
    else:
        raise TypeError(f"compare: got {type(runs).__name__}, expected {{name: [Result, …]}} or a list of results")
    if not found:
        raise ValueError("compare: got no runs, expected {name: [Result, …]} with at least one")
    return found


def _seeds(name: str, given: Any) -> tuple[Result, ...]:
    """The results of one method: at least one, all with the same settings, each seed once."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"compare: {name!r} holds {type(given).__name__}, expected a Result or a list of them")
    for run in given:
        _check_result(repr(name), run)
    if not given:
        raise ValueError(f"compare: {name!r} holds no run, expected at least one Result")
    for what, key in (("settings of the algorithm", _settings), ("network", _network), ("fleet", _fleet)):
        if len(ways := list(dict.fromkeys(map(key, given)))) > 1:
            raise ValueError(
                f"compare: the runs of {name!r} differ in the {what}: got {ways[0]} and {ways[1]}, expected runs that differ "
                "in the seed only; give each its own name"
            )
    seeds = [run.config.get("seed") for run in given]
    if len(given) > 1 and (twice := [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]):
        raise ValueError(
            f"compare: got {seeds.count(twice[0])} runs of {name!r} with seed {twice[0]}, expected each seed once: repeated "
            "runs hide the spread; pass solve(…, seed=…)"
        )
    return tuple(given)


def _settings(run: Result) -> str:
    """The algorithm as text, without the addresses of functions, which mean nothing."""
    return re.sub(r" at 0x[0-9a-f]+", "", describe(run.algorithm))


def _network(run: Result) -> str:
    return str(run.config.get("network", ""))


def _fleet(run: Result) -> str:
    return str(run.config.get("fleet", "none"))


def _check_result(where: str, run: Any) -> None:
    if not isinstance(run, Result):
        raise TypeError(f"compare: {where} holds {type(run).__name__}, expected what tw.solve returns, a Result")


def _check_target(above: Mapping[str, float], below: Mapping[str, float], target: Mapping[str, float]) -> None:
    if both := sorted(set(above) & set(below)):
        raise ValueError(f"compare: got {both[0]!r} both in above= and in below=, expected it in one of them")
    for name, value in target.items():
        if not np.isscalar(value) or not np.isfinite(value):
            raise ValueError(f"compare: got {name!r}: {value!r} as a target, expected a finite number")


def _check_columns(methods: Mapping[str, Sequence[Result]], columns: Sequence[str]) -> None:
    for name, method in methods.items():
        for run in method:
            if not len(run.history):
                raise ValueError(
                    f"compare: the run of {name!r} with seed {run.config.get('seed')} has no record ({run.outcome.value}: "
                    f"{run.reason}), expected at least one"
                )
            for column in columns:
                if column not in run.history.scalars:
                    remedy = "solve(…, reference=…)" if column in ("gap", "error") else "solve(…, evaluate={name: …})"
                    raise ValueError(
                        f"compare: the run of {name!r} with seed {run.config.get('seed')} has no column {column!r}, expected one "
                        f"of {', '.join(run.history.scalars)}; measure it with {remedy}"
                    )


def _check_same(methods: Mapping[str, Sequence[Result]], what: str, key: Any, remedy: str) -> None:
    """All runs agree, or for every seed all methods do: a problem may be drawn anew for every seed."""
    found = {name: {run.config.get("seed"): key(run) for run in method} for name, method in methods.items()}
    for name, seeds in found.items():
        if UNKNOWN in seeds.values():
            raise ValueError(f"compare: a run of {name!r} does not say its {what}; run it again with this version of Thalweg")
    if len({value for seeds in found.values() for value in seeds.values()}) == 1:
        return
    (first, expected), *others = found.items()
    for name, seeds in others:
        if seeds != expected:
            seed = next((s for s in {**expected, **seeds} if seeds.get(s) != expected.get(s)), None)
            got, wanted = (_short(found.get(seed, "no such run")) for found in (seeds, expected))
            raise ValueError(
                f"compare: {name!r} and {first!r} differ in the {what} (seed {seed}): got {got}, expected {wanted}; {remedy}, "
                "or one for every seed and the same seeds for every method"
            )
    if len(found) == 1 and what != "problem":
        raise ValueError(f"compare: the runs of {first!r} differ in the {what}; {remedy}")


def _short(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else str(value)


def _check_optimum(methods: Mapping[str, Sequence[Result]], target: float) -> None:
    """Gaps are measured against one optimum per seed, to a tenth of the target."""
    found: dict[Any, tuple[str, float]] = {}
    for name, method in methods.items():
        for run in method:
            if "gap" not in run.history.scalars:
                continue
            last = {column: float(run.history.scalars[column][-1]) for column in ("objective", "gap")}
            optimum, key = last["objective"] - last["gap"], (run.config.get("seed"), run.config.get("fingerprint"))
            other, seen = found.setdefault(key, (name, optimum))
            rounding = 8 * np.finfo(run.history.scalars["objective"].dtype).eps * max(abs(last["objective"]), abs(seen))
            if np.isfinite(optimum) and abs(optimum - seen) > min(0.1 * target, 1e-3 * (1 + abs(seen))) + rounding:
                raise ValueError(
                    f"compare: {name!r} and {other!r} measure their gaps against different optima: got {optimum:.8g}, expected "
                    f"{seen:.8g}; pass the same reference= to every solve"
                )


def _shown(runs: Sequence[Result], target: Mapping[str, float], above: Mapping[str, float], final: Sequence[str]) -> tuple:
    """Columns whose last values are shown: the target's with their worst clients and spread, and what was asked for."""
    wanted: list[str] = []
    for name in target:
        end = "lowest" if name in above else "highest"
        wanted += [name, f"{name}_{end}", f"{name}_{end}_tenth", f"{name}_spread"]
    wanted += ["gap" if all("gap" in run.history.scalars for run in runs) else "objective", *final]
    return tuple(name for name in dict.fromkeys(wanted) if all(name in run.history.scalars for run in runs))
