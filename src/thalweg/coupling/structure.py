"""What `analyse` found: which agents are coupled, through which equations, and who must hear whom.

Axes: `n` agents, `E` edges.
"""

import dataclasses

import numpy as np

KINDS = ("dynamics", "cost", "constraint")


@dataclasses.dataclass(frozen=True)
class Equation:
    """One equation, and what occurs in it.

    Attributes:
        kind: "dynamics", "cost" or "constraint".
        name: whose it is; of a shared constraint its name, with the row where there are several.
        owner: the agent whose equation it is, None where it is shared by all who occur in it.
        occurs: agent → the names of its variables that occur.
        idle: agent → those of them that had no effect at the points that were tried: x − x, or a branch not taken.
    """

    kind: str
    name: str
    owner: str | None
    occurs: dict[str, tuple[str, ...]]
    idle: dict[str, tuple[str, ...]]

    @property
    def arcs(self) -> tuple[tuple[str, str], ...]:
        """(j, i): a variable of j occurs in an equation of i ≠ j. A shared equation is one of everybody in it."""
        owners = tuple(self.occurs) if self.owner is None else (self.owner,)
        return tuple((j, i) for i in owners for j in self.occurs if j != i)

    def __str__(self) -> str:
        parts = [f"{agent} ({', '.join(names)})" for agent, names in self.occurs.items()]
        return f"{self.kind} {'' if self.owner is None else 'of '}{self.name}: {', '.join(parts) or 'nobody'}"


@dataclasses.dataclass(frozen=True)
class Structure:
    """Who depends on whom.

    Attributes:
        agents: their names, in the order of ids 0 … n−1.
        equations: what was looked at.
        checked: at how many random points derivatives were compared with it; 0 where that was too much.
    """

    agents: tuple[str, ...]
    equations: tuple[Equation, ...]
    checked: int

    @property
    def n(self) -> int:
        """Number of agents."""
        return len(self.agents)

    def arcs(self, *kinds: str) -> tuple[tuple[str, str], ...]:
        """(j, i) where a variable of j occurs in an equation of i of these kinds (all, when none is named), in order of i."""
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"arcs: got {kind!r}, expected {', '.join(map(repr, KINDS))}")
        place = {agent: k for k, agent in enumerate(self.agents)}
        found = {arc for equation in self.equations if equation.kind in (kinds or KINDS) for arc in equation.arcs}
        return tuple(sorted(found, key=lambda arc: (place[arc[1]], place[arc[0]])))

    @property
    def edges(self) -> np.ndarray:
        """`[E, 2]` ids (j, i), the least network: i must hear j. For `tw.network.from_edges(edges, n=…, directed=True)`."""
        place = {agent: k for k, agent in enumerate(self.agents)}
        return np.array([(place[j], place[i]) for j, i in self.arcs()], int).reshape(-1, 2)

    @property
    def undirected(self) -> np.ndarray:
        """`[E, 2]` ids (i, j), i < j, each pair once, whichever of the two must hear the other."""
        return np.unique(np.sort(self.edges, axis=1), axis=0).reshape(-1, 2)

    def hears(self, agent: str) -> tuple[str, ...]:
        """Whom `agent` must hear: those of whom a variable occurs in one of its equations."""
        if agent not in self.agents:
            raise ValueError(f"hears: got {agent!r}, expected one of {', '.join(map(repr, self.agents))}")
        return tuple(j for j, i in self.arcs() if i == agent)

    def kinds(self, sender: str, receiver: str) -> tuple[str, ...]:
        """Through which kinds of equations of `receiver` it depends on `sender`."""
        return tuple(kind for kind in KINDS if (sender, receiver) in self.arcs(kind))

    def __str__(self) -> str:
        arcs = self.arcs()
        lines = [f"{self.n} agents, {len(arcs)} directed edges"]
        done = set()
        for j, i in arcs:
            if (j, i) in done:
                continue
            both = (i, j) in arcs and self.kinds(i, j) == self.kinds(j, i)
            done |= {(j, i), (i, j)} if both else {(j, i)}
            first, second = sorted((j, i), key=self.agents.index) if both else (j, i)
            lines.append(f"  {first} {'↔' if both else '→'} {second}  {', '.join(self.kinds(j, i))}")
        alone = [agent for agent in self.agents if not any(agent in arc for arc in arcs)]
        if alone:
            lines.append(f"  coupled with nobody: {', '.join(alone)}")
        for equation in self.equations:
            for agent, names in equation.idle.items():
                if agent != equation.owner:
                    where = f"{equation.kind} {'' if equation.owner is None else 'of '}{equation.name}"
                    lines.append(
                        f"  {', '.join(names)} of {agent} occurs in {where} without effect at {self.checked} random points"
                    )
        return "\n".join(lines)

    __repr__ = __str__
