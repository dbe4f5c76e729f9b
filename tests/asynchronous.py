"""Methods without rounds once more, in plain NumPy: dictionaries of agents and edges, one event after another, one heap of events.

Nothing of the package is used. Axes: `n` agents, `d` variables.
"""

import heapq

import numpy as np

WAKE = -1


class PlainADMM:
    """Relaxed edge-based ADMM on φ_i(x) = ½xᵀA_i x + b_iᵀx; `hears[i]` are the neighbours of i."""

    def __init__(self, A, b, hears, penalty, relaxation, x0=None):
        self.A, self.b, self.hears, self.rho, self.r = A, b, hears, penalty, relaxation
        start = np.zeros(b.shape[1]) if x0 is None else x0
        self.x = [start.copy() for _ in hears]
        self.z = {(i, j): penalty * start for i, around in enumerate(hears) for j in around}

    def wake(self, i):
        around, eye = self.hears[i], np.eye(len(self.b[i]))
        total = sum((self.z[i, j] for j in around), np.zeros(len(self.b[i])))
        self.x[i] = np.linalg.solve(self.A[i] + self.rho * len(around) * eye, total - self.b[i])
        return {j: 2 * self.rho * self.x[i] - self.z[i, j] for j in around}

    def hear(self, i, j, message):
        self.z[i, j] = (1 - self.r) * self.z[i, j] + self.r * message[i]

    @property
    def estimates(self):
        return np.array(self.x)


class PlainSums:
    """Running sums: s and p of agents, σ that was given, ρ that was taken; `heard_by[i]` are those who hear i."""

    def __init__(self, values, hears):
        n = len(values)
        self.heard_by = [[j for j in range(n) if i in hears[j]] for i in range(n)]
        self.held = [np.append(value, 1.0) for value in values]
        self.given = [np.zeros_like(one) for one in self.held]
        self.taken = {(i, j): np.zeros_like(self.held[0]) for i in range(n) for j in hears[i]}
        self.news = [True] * n

    def wake(self, i):
        if self.news[i]:
            share = self.held[i] / (1 + len(self.heard_by[i]))
            self.given[i] = self.given[i] + share
            self.held[i] = share
        self.news[i] = False
        return self.given[i].copy()

    def hear(self, i, j, message):
        new = message - self.taken[i, j]
        self.news[i] |= bool(new[-1])
        self.held[i] = self.held[i] + new
        self.taken[i, j] = message

    @property
    def estimates(self):
        return np.array([one[:-1] / one[-1] for one in self.held])

    @property
    def everything(self):
        """Σ of what agents hold and of what is under way."""
        return sum(self.held) + sum(self.given[j] - seen for (_, j), seen in self.taken.items())


def neighbours(network):
    """`hears[i]`: whom i hears."""
    hears = [set() for _ in range(network.n)]
    for sender, receiver in np.asarray(network.edges).tolist():
        hears[receiver].add(sender)
        if not network.directed:
            hears[sender].add(receiver)
    return [sorted(around) for around in hears]


def replay(method, agent, sender, number):
    """The method after these events, in this order; every message is kept until it is heard."""
    letters = {}
    for i, j, k in zip(np.asarray(agent).tolist(), np.asarray(sender).tolist(), np.asarray(number).tolist(), strict=True):
        if j == WAKE:
            letters[i, k] = method.wake(i)
        else:
            method.hear(i, j, letters[j, k])
    return method


def happen(hears, wakes, *, period, latency=0.0, jitter=0.0, loss=0.0, seed=0):
    """(agent, sender, number) of events by a heap: Poisson clocks, exponential delays, losses; of messages that were overtaken
    none is heard."""
    n, rng, count = len(hears), np.random.default_rng(seed), 0
    heap = [(rng.exponential(period[i]), i, WAKE, 0) for i in range(n)]
    heapq.heapify(heap)
    newest, found = {}, []
    while count < wakes:
        time, i, j, k = heapq.heappop(heap)
        if j == WAKE:
            count += 1
            found.append((i, WAKE, k))
            for other in range(n):
                if i in hears[other] and rng.random() >= loss:
                    heapq.heappush(heap, (time + latency + jitter * rng.exponential(), other, i, k))
            heapq.heappush(heap, (time + rng.exponential(period[i]), i, WAKE, k + 1))
        elif k > newest.get((i, j), -1):
            newest[i, j] = k
            found.append((i, j, k))
    return np.array(found).T
