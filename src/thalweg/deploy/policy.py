"""What a site allows: a file of its own, which no experiment can change.

    experiments = ["3f2a…"]                 # hashes, as `thalweg check` shows them
    algorithms = ["GradientTracking", "EXTRA"]
    max_rounds = 10000
    sites = ["cleveland", "hungary", "va"]  # who may be in the federation

    [privacy]
    stages = ["gaussian"]                   # one of these must be in what the site sends
    aggregates = ["secure_sum"]             # one of these must stand in place of the server's mean
    max_epsilon = 2.0                       # the experiment must have a budget, and none above this
    max_delta = 1e-5

Whatever is left out is not limited.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, field_validator

from thalweg.experiment import Experiment, Mistake
from thalweg.experiment.experiment import algorithms
from thalweg.experiment.mistakes import read, shown, unknown_name
from thalweg.experiment.pipelines import StageTable, builders
from thalweg.experiment.signature import Table, makers
from thalweg.message import Aggregator, Mixer

# Fewer digits of a hash can be found by trying.
DIGITS = 16


class Forbidden(ValueError):
    """The site's policy does not allow the experiment."""


class PrivacyPolicy(Table):
    """`[privacy]`."""

    stages: list[str] | None = Field(None, min_length=1, description="a list of stages, one of which is compulsory")
    aggregates: list[str] | None = Field(None, min_length=1, description="a list of aggregators, one of which is compulsory")
    max_epsilon: float | None = Field(None, gt=0, description="a number > 0")
    max_delta: float | None = Field(None, gt=0, lt=1, description="a number in (0, 1)")


class Policy(Table):
    """The limits of one site."""

    experiments: list[str] | None = Field(None, description=f"a list of hashes, at least {DIGITS} digits of each")
    algorithms: list[str] | None = Field(None, description="a list of names of algorithms")
    max_rounds: int | None = Field(None, ge=0, description="a whole number ≥ 0")
    sites: list[str] | None = Field(None, description="a list of names of sites")
    privacy: PrivacyPolicy = Field(PrivacyPolicy(), description="a table [privacy]")

    @field_validator("experiments")
    @classmethod
    def _long_enough(cls, hashes: list[str] | None) -> list[str] | None:
        for text in hashes or ():
            if len(text) < DIGITS or text.strip("0123456789abcdef"):
                raise ValueError(f"expected hexadecimal hashes of at least {DIGITS} digits: {shown(text)} is none")
        return hashes

    @staticmethod
    def load(path: Path) -> "Policy":
        """The policy in a TOML file.

        Raises:
            Mistake: naming file and key; also a name that no algorithm or stage has, which could never be met.
            FileNotFoundError: there is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no policy file {path}")
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            if "privacy" in table:
                table["privacy"] = read(PrivacyPolicy, table["privacy"], "privacy")
            policy = read(Policy, table, "")
            for where, names, known in (
                ("algorithms", policy.algorithms, algorithms()),
                ("privacy.stages", policy.privacy.stages, builders()),
                ("privacy.aggregates", policy.privacy.aggregates, makers(Aggregator) | makers(Mixer)),
            ):
                for name in names or ():
                    if name not in known:
                        raise unknown_name(where, name, known)
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Mistake(f"{path}: got a file that is not TOML: {error}") from None
        except Mistake as mistake:
            raise Mistake(f"{path}: {mistake}") from None
        return policy

    def check(self, experiment: Experiment, digest: str) -> None:
        """Whether the site may take part in `experiment`, whose hash is `digest`.

        Raises:
            Forbidden: it may not, and why.
        """
        reasons = list(self._reasons(experiment, digest))
        if reasons:
            raise Forbidden(f"the policy of this site refuses the experiment {digest[:DIGITS]}: {'; '.join(reasons)}")

    def _reasons(self, experiment: Experiment, digest: str) -> Iterator[str]:
        name, rounds = experiment.algorithm.kind.__name__, experiment.settings.rounds
        if self.experiments is not None and not any(digest.startswith(allowed) for allowed in self.experiments):
            yield "its hash is not among experiments"
        if self.algorithms is not None and name not in self.algorithms:
            yield f"got algorithm {name}, allowed are {', '.join(self.algorithms) or 'none'}"
        if self.max_rounds is not None and rounds > self.max_rounds:
            yield f"got {rounds:,} rounds, allowed are {self.max_rounds:,}"
        if self.sites is not None:
            strangers = [site for site in experiment.everybody if site not in self.sites]
            if strangers:
                yield f"got sites {', '.join(strangers)}, allowed are {', '.join(self.sites)}"
        yield from self._privacy(experiment)

    def _privacy(self, experiment: Experiment) -> Iterator[str]:
        limits, budget = self.privacy, {} if experiment.privacy is None else experiment.privacy.given()
        sent = [experiment.pipelines[way] for way in ("link", "uplink") if way in experiment.pipelines]
        if limits.stages is not None and not any(_has(one, limits.stages) for one in sent):
            yield f"got no stage {' or '.join(limits.stages)} in what this site sends, which is compulsory"
        aggregate = None if experiment.aggregate is None else experiment.aggregate.value["kind"]
        if limits.aggregates is not None and aggregate not in limits.aggregates:
            yield f"got aggregate {aggregate or 'none'}, compulsory is {' or '.join(limits.aggregates)}"
        for key, limit in (("epsilon", limits.max_epsilon), ("delta", limits.max_delta)):
            if limit is not None and not budget:
                yield f"got no budget [privacy], allowed is {key} up to {limit:g}"
            elif limit is not None and budget.get(key, 0) > limit:
                yield f"got {key} = {budget[key]:g}, allowed is up to {limit:g}"


def _has(stage: StageTable, names: list[str]) -> bool:
    """Whether a stage, or one within it, is among `names`."""
    return stage.kind in names or any(_has(part, names) for part in stage.parts.values())
