"""How a run can end, and what to do about it."""

import enum


class Outcome(enum.Enum):
    """Why a run ended. `remedy` says what helps when it is not what was wanted."""

    CONVERGED = "converged"
    TARGET = "target reached"
    NO_IMPROVEMENT = "no improvement"
    BUDGET = "budget spent"
    PRIVACY = "privacy budget spent"
    ROUND_LIMIT = "round limit"
    DIVERGED = "diverged"
    NOT_FINITE = "not finite"
    INFEASIBLE = "infeasible"
    INTERRUPTED = "interrupted"
    TOO_FEW_AGENTS = "too few agents"

    @property
    def remedy(self) -> str:
        """One sentence for the user; empty when nothing is wrong."""
        return {
            Outcome.CONVERGED: "",
            Outcome.TARGET: "",
            Outcome.NO_IMPROVEMENT: "Give it more patience, or another step size.",
            Outcome.BUDGET: "Give it a larger budget, or a method that needs less of it.",
            Outcome.PRIVACY: "Give it a larger budget, more noise in each round, or a method that needs fewer rounds.",
            Outcome.ROUND_LIMIT: "Give it more rounds, a looser stop rule, or a method or network that mixes faster.",
            Outcome.DIVERGED: "Use a smaller step size (the default is safe), or check the weights of the network.",
            Outcome.NOT_FINITE: "Use a smaller step size, or look at the agent's data; engine='debug' shows the inputs.",
            Outcome.INFEASIBLE: "Change the totals of the rows that are named, or what the agents may do.",
            Outcome.TOO_FEW_AGENTS: "Start the missing sites and this one again: it goes on from its log.",
            Outcome.INTERRUPTED: "Continue with resume=True (or `thalweg resume RUN`).",
        }[self]
