"""The central solution of a market of bids: a linear program over segments, by HiGHS.

Axes: `n` agents, `m` rows, `s` segments.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from thalweg.problem.coupled import Coupled


def central_bids(problem: "Coupled", equal: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(plans `[n, m]`, price `[m]`) of sign·Σ_i x_i ≤ sign·b, or = b in rows that are `equal` `[m]`.

    Raises:
        RuntimeError: HiGHS did not find an optimum.
    """
    import scipy.sparse as sparse
    from scipy.optimize import linprog

    cost, width = (np.asarray(problem.pieces.data[name], float) for name in ("price", "width"))
    n, m, s = cost.shape
    row = np.broadcast_to(np.arange(m)[None, :, None], cost.shape).ravel()
    sums = sparse.csr_matrix((np.ones(row.size), (row, np.arange(row.size))), shape=(m, row.size))
    total, rest = np.asarray(problem.coupling.total, float), ~equal
    found = linprog(
        cost.ravel(),
        A_ub=sparse.diags(sign[rest]) @ sums[rest] if rest.any() else None,
        b_ub=(sign * total)[rest] if rest.any() else None,
        A_eq=sums[equal] if equal.any() else None,
        b_eq=total[equal] if equal.any() else None,
        bounds=np.stack([np.zeros(row.size), width.ravel()], axis=1),
        method="highs",
    )
    if found.status != 0:
        raise RuntimeError(f"reference: HiGHS ended with: {found.message}")
    price = np.zeros(m)
    price[equal] = -found.eqlin.marginals if equal.any() else 0
    price[rest] = -sign[rest] * found.ineqlin.marginals if rest.any() else 0
    return found.x.reshape(n, m, s).sum(axis=2), price
