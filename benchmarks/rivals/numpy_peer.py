"""The same recursion as others write it: vectorised NumPy, and one Python object per agent.

ATC gradient tracking, x ← W(x − αy), y ← Wy + ∇f(x⁺) − ∇f(x). The vectorised version keeps W sparse where that is
faster (the better of dense and sparse is reported), which is the strongest form of it.
"""

import numpy as np


def quadratic_gradient(A, b):
    """∇ of ½xᵀA_i x + b_iᵀx for all agents, `[n, d]`."""
    return lambda x: (A @ x[:, :, None])[:, :, 0] + b


def logistic_gradient(features, labels, l2):
    """∇ of the mean logistic loss + ½λ‖x‖² for all agents, `[n, d]`."""
    m = features.shape[1]

    def gradient(x):
        margin = (features @ x[:, :, None])[:, :, 0]
        residual = 1 / (1 + np.exp(-margin)) - labels
        return (residual[:, None, :] @ features)[:, 0] / m + l2 * x

    return gradient


def vectorised(W, gradient, x, step, rounds):
    """Ten lines of NumPy, all agents at once."""
    g = gradient(x)
    y = g
    for _ in range(rounds):
        x = W @ (x - step * y)
        new = gradient(x)
        y, g = W @ y + new - g, new
    return x


class Agent:
    """One agent as an object: its data, its neighbours, its mailbox."""

    def __init__(self, gradient, neighbours, weights, self_weight, x, step):
        self.gradient, self.neighbours, self.weights, self.self_weight = gradient, neighbours, weights, self_weight
        self.x, self.step, self.inbox = x, step, []
        self.g = gradient(x)
        self.y = self.g

    def send(self):
        """To every neighbour: the adapted iterate and the tracker."""
        self.message = (self.x - self.step * self.y, self.y)
        for other in self.neighbours:
            other.inbox.append((self, *self.message))

    def receive(self):
        """Mix what arrived, then follow the gradient."""
        x, y = self.self_weight * self.message[0], self.self_weight * self.message[1]
        for sender, theirs, tracker in self.inbox:
            x, y = x + self.weights[sender] * theirs, y + self.weights[sender] * tracker
        self.inbox.clear()
        g = self.gradient(x)
        self.x, self.y, self.g = x, y + g - self.g, g


def one_object_per_agent(W, gradients, x, step, rounds):
    """One Python object per agent, as other packages do."""
    agents = [Agent(gradients[i], [], {}, W[i, i], x[i], step) for i in range(len(x))]
    for i, agent in enumerate(agents):
        for j in np.flatnonzero(W[i]):
            if j != i:
                agent.neighbours.append(agents[j])
                agent.weights[agents[j]] = W[i, j]
    for _ in range(rounds):
        for agent in agents:
            agent.send()
        for agent in agents:
            agent.receive()
    return np.stack([agent.x for agent in agents])
