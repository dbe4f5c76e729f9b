"""What is shown of a coupled problem: gap and violation, prices, the certificate, every agent's plan. Never a cost by itself.

Axes: `n` agents, `m` rows of the coupling.
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from thalweg._colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION

from .table import Table
from .text import number

if TYPE_CHECKING:
    from .figures import Chart
    from .result import Result

# Plans of more numbers than this are not listed.
LISTED_NUMBERS = 6
# Prices of more rows than this are drawn as their ends and their median.
DRAWN_ROWS = 6
LISTED_ROWS = 2000
# The cost of plans is drawn where they meet the rows to this.
MEETS = 1e-4
PRICE_OF = "price of "


def is_market(result: "Result") -> bool:
    """Whether the problem was coupled."""
    return result.price is not None


def market_charts(result: "Result", column: Any) -> list["Chart"]:
    """Gap and violation; the cost between its bounds; prices; residuals of the method."""
    from .figures import DASH_DOT, DASHED, DOTTED, SOLID, Chart, Line

    violation, objective = column("violation"), column("objective")
    certificate = (
        Line("relative duality gap", np.abs(column("duality_gap")), BLUE, SOLID),
        Line("violation of the rows", violation, VERMILLION, DASHED),
        Line("distance to the optimum", column("error"), GREEN, DASH_DOT),
        Line("disagreement about the price", column("consensus_error"), PURPLE, DOTTED),
    )
    cost = (
        Line(f"cost of the plans, violation at most {MEETS:g}", np.where(violation <= MEETS, objective, np.nan)),
        Line("cost at least", column("dual"), VERMILLION, DASHED),
    )
    residuals = (
        Line("primal residual", column("primal_residual"), BLUE, SOLID),
        Line("dual residual", column("dual_residual"), VERMILLION, DASHED),
    )
    charts = [
        Chart("Gap and violation", certificate),
        Chart("Cost", cost, log=False),
        Chart("Prices", _prices(result), log=False),
    ]
    return [chart.trimmed() for chart in (*charts, Chart("Residuals", residuals))]


def _prices(result: "Result") -> tuple:
    from .figures import DASH_DOT, DASHED, DOTTED, SOLID, Line

    names = [name for name in result.history.scalars if name.startswith(PRICE_OF)]
    columns = [np.asarray(result.history.scalars[name], float) for name in names]
    if len(names) <= DRAWN_ROWS:
        styles = zip(
            (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY),
            (SOLID, DASHED, DASH_DOT, DOTTED, (3.0, 1.5), (14.0, 3.0)),
            strict=True,
        )
        return tuple(Line(n.removeprefix(PRICE_OF), c, *style) for n, c, style in zip(names, columns, styles, strict=False))
    rows = np.stack(columns)
    return (
        Line(f"highest of {len(names)} rows", rows.max(0), VERMILLION, DASHED),
        Line("median", np.median(rows, axis=0), BLUE, SOLID),
        Line("lowest", rows.min(0), GREEN, DASH_DOT),
    )


def row_names(result: "Result") -> list[str]:
    """`[m]`, as far as the history knows them."""
    known = [name.removeprefix(PRICE_OF) for name in result.history.scalars if name.startswith(PRICE_OF)]
    return known if len(known) == len(result.price) else [f"row {j}" for j in range(len(result.price))]


def market_measures(result: "Result") -> list[tuple[str, str, str]]:
    """(label, value, note) at the head of the report, of the plans and price that the run ended with."""
    found = result.certificate
    if found is None:
        return []
    proved = np.isfinite(found.dual)
    return [
        ("cost of the plans", number(found.objective, 5), f"at a violation of {number(found.violation, 2)}"),
        ("cost at least", number(found.dual, 5) if proved else "–", "" if proved else "no bound could be proved"),
        *([("relative duality gap", number(found.relative_gap, 2), "")] if proved else []),
    ]


def certificate_table(result: "Result") -> Table | None:
    """The certificate, number by number."""
    found = result.certificate
    if found is None:
        return None
    proved, smooth = np.isfinite(found.dual), np.isfinite(found.stationarity)
    named = len(result.names) == _agents(result)
    worst = f" ({result.names[found.worst]})" if smooth and named else ""
    rows = [
        ("cost of the plans", found.objective),
        ("cost at least, whatever the plans", found.dual if proved else "no bound could be proved"),
        *([("gap, relative to max(1, |bound|)", found.relative_gap)] if proved else []),
        ("violation of the rows, relative to max(1, |total|)", found.violation),
        ("distance of the worst plan to its own set", found.outside),
        ("largest price × room left, of inequalities", found.slackness),
        (f"stationarity, of the worst agent{worst}", found.stationarity if smooth else "not measured"),
    ]
    rows = [(what, number(value, 4) if isinstance(value, float) else value) for what, value in rows]
    note = "From one sweep of best responses at the final price, after the run and without the method."
    return Table("Certificate", ("what", "value"), rows, note)


def price_table(result: "Result") -> Table:
    """The price of every row."""
    names, price = row_names(result), np.asarray(result.price, float)
    listed, note = np.arange(len(price)), "What an agent pays for each unit that it adds to the row; negative: what it is paid."
    if len(price) > LISTED_ROWS:
        listed = np.sort(np.argsort(-np.abs(price), kind="stable")[:LISTED_ROWS])
        note += f" The {LISTED_ROWS:,} of {len(price):,} rows with the largest prices."
    return Table("Price", ("row", "price"), [(names[j], price[j].item()) for j in listed], note)


def plan_columns(result: "Result") -> list[tuple[str, np.ndarray]]:
    """(label, `[n]`) of every number in a plan, if there are few; nothing where agents have no row of their own."""
    leaves = jax.tree_util.tree_leaves_with_path(result.agents)
    n = len(result.names)
    if not leaves or any(np.ndim(leaf) == 0 or len(leaf) != n for _, leaf in leaves):
        return []
    found = []
    for path, leaf in leaves:
        name = "/".join(str(getattr(step, "key", getattr(step, "name", step))) for step in path)
        entries = np.asarray(leaf, float).reshape(n, -1)
        single = "plan" if not name else f"plan: {name}"
        found += [(single if entries.shape[1] == 1 else f"{single} {k}", column) for k, column in enumerate(entries.T)]
    return found if len(found) <= LISTED_NUMBERS else []


def _agents(result: "Result") -> int:
    return len(result.names) if result.ids is None else len(result.ids)
