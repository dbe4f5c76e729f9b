"""The study: one model for four hospitals, trained over a ring, beside what each could do alone and what pooling would give.

Axes: `n` hospitals, `d` features, `m` examples.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

Model = dict[str, Any]

L2 = 0.03
ROUNDS = 5000
STOP = tw.Stop(progress=1e-9, agreement=1e-9)
MODEL = tw.losses.linear_model(tw.losses.logistic)


def ring_problem(data: tw.data.FederatedData) -> tw.EmpiricalRisk:
    """minimise Σ_i (m_i/m) mean_j log-loss(x; record j of hospital i) + ½·L2·‖x‖²: the model of the pooled records."""
    x0 = MODEL.start(data.d, dtype=np.float64)
    return tw.EmpiricalRisk(MODEL, data.train, x0, regularizer=tw.l2(L2), names=data.names)


def alone_loss(models: Model, example: tuple[Any, Any, Any]) -> Any:
    """The loss of the example's own hospital's model; `models` has one for each, on a leading axis n."""
    features, label, hospital = example
    return MODEL(jax.tree.map(lambda leaf: leaf[hospital], models), (features, label))


def alone(data: tw.data.FederatedData) -> list[Model]:
    """What each hospital's own training records give, to optimality, with the same regulariser.

    The n separate problems are solved as one, minimise (1/n) Σ_i (f_i(x_i) + ½·L2·‖x_i‖²), which is compiled once.
    """
    own = [(*examples, np.full(len(examples[1]), i)) for i, examples in enumerate(data.train)]
    start = jax.tree.map(lambda leaf: jnp.stack([leaf] * data.n), MODEL.start(data.d, dtype=np.float64))
    separate = tw.EmpiricalRisk(alone_loss, own, start, weights="uniform", regularizer=tw.l2(L2 / data.n), names=data.names)
    models = tw.reference(separate).x
    return [jax.tree.map(lambda leaf, i=i: leaf[i], models) for i in range(data.n)]


def score(model: Model, examples: tuple[np.ndarray, np.ndarray]) -> float:
    """AUC of a model on examples."""
    features, labels = examples
    return tw.data.auc(features @ np.asarray(model["weights"]) + float(model["bias"]), labels)


@dataclasses.dataclass(frozen=True)
class Study:
    """What was found.

    Attributes:
        data: the records, as `tw.data.heart_disease` splits them.
        result: of the run over the ring.
        pooled: the central solution on the pooled training records, with its certificate.
        alone: the models of hospitals that keep to themselves.
    """

    data: tw.data.FederatedData
    result: tw.Result
    pooled: tw.Reference
    alone: list[Model]

    def hospitals(self) -> tw.observe.Table:
        """Per hospital: records, AUC alone / together / pooled on its own test records, payload sent."""
        sent = self.result.ledger.bytes
        rows = [
            (
                name,
                len(self.data.train[i][1]),
                len(self.data.test[i][1]),
                score(self.alone[i], self.data.test[i]),
                score(self.result.x, self.data.test[i]),
                score(self.pooled.x, self.data.test[i]),
                tw.observe.human_bytes(int(sent[i])),
            )
            for i, name in enumerate(self.data.names)
        ]
        columns = ("hospital", "trained on", "tested on", "AUC alone", "AUC together", "AUC pooled", "sent")
        note = (
            "Alone: trained on the hospital's own records. Together: over the ring, no record leaving a hospital. Pooled: all "
            "records in one place, to compare. Areas under the ROC curve on each hospital's own test records, which are few: "
            "differences of a few hundredths between columns may be chance."
        )
        return tw.observe.Table("Four hospitals", columns, rows, note)

    def run(self) -> tw.observe.Table:
        """How the run went."""
        last = {name: float(column[-1]) for name, column in self.result.history.scalars.items()}
        rows = [
            ("rounds", self.result.rounds),
            ("payload each hospital sent", tw.observe.human_bytes(int(self.result.ledger.bytes.max()))),
            ("consensus error", last["consensus_error"]),
            ("distance to the central optimum", last["error"]),
            ("ended", f"{self.result.outcome.value}: {self.result.reason}"),
        ]
        note = f"The central optimum has {self.pooled.certificate}."
        return tw.observe.Table("The run", ("", ""), rows, note)

    @property
    def tables(self) -> tuple[tw.observe.Table, ...]:
        """All tables, for the report."""
        return self.hospitals(), self.run()


def study(
    progress: bool | Callable[[int, tw.History], None] | None = None, say: Callable[[str], None] = lambda step: None
) -> Study:
    """Run the whole study.

    Args:
        progress: as for `thalweg.solve`.
        say: told what begins, before it begins.
    """
    with jax.enable_x64(True):
        say("reading the records of four hospitals")
        data = tw.data.heart_disease()
        problem = ring_problem(data)
        say("for comparison: each hospital alone")
        separate = alone(data)
        say("for comparison: all records in one place")
        pooled = tw.reference(problem)
        say("training over a ring")
        network, algorithm = tw.network.ring(data.n), tw.GradientTracking()
        result = tw.solve(problem, algorithm, network, rounds=ROUNDS, every=10, stop=STOP, reference=pooled, progress=progress)
    return Study(data, result, pooled, separate)
