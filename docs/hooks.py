"""Hooks of the documentation's build: the index of algorithms is made from the exports, so that it cannot go stale.

`python docs/hooks.py` prints it.
"""

import inspect
import typing

import thalweg as tw

MARKER = "<!-- the index of algorithms is built here, by docs/hooks.py -->"

FAILURES = {
    "symmetric": "loss of both directions of an edge",
    "independent": "loss of each direction by itself",
    "asleep": "sleeping agents",
    "delay": "delays",
    "partial": "a part of the clients in each round",
    "dropout": "lost answers of clients",
    "local_steps": "several local steps",
}
NEEDS = {
    "undirected": "an undirected network",
    "symmetric": "symmetric weights",
    "doubly_stochastic": "doubly stochastic weights",
    "positive_definite": "λ_min(W) > 0, as lazy Metropolis weights have",
    "fixed": "a network that does not change",
    "reliable": "a network that loses no messages",
    "smooth": "smooth losses",
    "strongly_convex": "strongly convex losses",
    "projection": "local sets with a projection",
    "affine": "affine couplings",
    "exchange": "quantities that agents can trade one for one",
    "measurements": "measurements (`tw.Measurements`)",
    "everyone": "all clients in every round",
}
HANDLES = {
    "regularizer": "a non-smooth r, through its prox",
    "stochastic": "stochastic gradients",
    "constants": "the constants L and μ, where they exist",
    "local_steps": "step sizes that differ between agents",
    "partial_work": "what clients had time for",
    "personal": "a model of each client's own",
    "shared": "a choice of leaves that are shared",
    "prices": "coupled problems (`tw.Coupled`)",
}


def on_page_markdown(markdown, page, config, files):
    """mkdocs calls this for every page."""
    return fill(markdown) if page.file.src_uri == "algorithms.md" else markdown


def fill(markdown: str) -> str:
    """The page with the index in the place of the marker."""
    peers = ("## Without a server", overview(), "## Without rounds", asynchronous_overview())
    led = ("## With a server", servers_overview(), "## With a price", prices_overview())
    parts = (*peers, *led, algorithms_index())
    return markdown.replace(MARKER, "\n\n".join(parts))


def overview() -> str:
    """One table over all algorithms of peers."""
    lines = ["| | limit | rate | stays exact under | prox of r | directed |", "|---|---|---|---|---|---|"]
    for algorithm in _algorithms():
        kinds = ", ".join(sorted(algorithm.exact_under)) or "–"
        limit = "exact" if algorithm.claims.exact else "biased"
        prox = "yes" if "regularizer" in algorithm.handles else ""
        directed = "yes" if _on_directed(algorithm) else ""
        link = f"[{algorithm.__name__}](#{algorithm.__name__.lower()})"
        lines.append(f"| {link} | {limit} | {algorithm.claims.rate} | {kinds} | {prox} | {directed} |")
    return "\n".join(lines)


def asynchronous_overview() -> str:
    """One table over all algorithms without rounds."""
    lines = ["| | limit | rate | stays exact under | directed |", "|---|---|---|---|---|"]
    for name, algorithm in _asynchronous().items():
        kinds = ", ".join(sorted(algorithm.exact_under)) or "–"
        limit = "exact" if algorithm.claims.exact else "biased"
        directed = "" if "undirected" in algorithm.needs or algorithm.per_neighbour else "yes"
        lines.append(f"| [{name}](#{name.lower()}) | {limit} | {algorithm.claims.rate} | {kinds} | {directed} |")
    return "\n".join(lines)


def servers_overview() -> str:
    """One table over all algorithms with a server."""
    lines = ["| | limit | rate | stays exact under | own models | prox of r |", "|---|---|---|---|---|---|"]
    for name, algorithm in _servers().items():
        kinds = ", ".join(sorted(algorithm.exact_under)) or "–"
        limit = "exact" if algorithm.claims.exact else "biased"
        own, prox = ("yes" if word in algorithm.handles else "" for word in ("personal", "regularizer"))
        lines.append(f"| [{name}](#{name.lower()}) | {limit} | {algorithm.claims.rate} | {kinds} | {own} | {prox} |")
    return "\n".join(lines)


def prices_overview() -> str:
    """One table over all price algorithms."""
    lines = ["| | rate | stays exact under | strongly convex costs | everybody in each round |", "|---|---|---|---|---|"]
    for name, algorithm in _prices().items():
        kinds = ", ".join(sorted(algorithm.exact_under)) or "–"
        strong, all_ = ("needed" if word in algorithm.needs else "" for word in ("strongly_convex", "everyone"))
        lines.append(f"| [{name}](#{name.lower()}) | {algorithm.claims.rate} | {kinds} | {strong} | {all_} |")
    return "\n".join(lines)


def algorithms_index() -> str:
    """One section per exported algorithm."""
    peers = [_section(algorithm.__name__, algorithm, "peer") for algorithm in _algorithms()]
    peers += [_section(name, algorithm, "asynchronous") for name, algorithm in _asynchronous().items()]
    servers = [_section(name, algorithm, "server") for name, algorithm in _servers().items()]
    return "\n\n".join([*peers, *servers, *(_section(name, algorithm, "price") for name, algorithm in _prices().items())])


def _algorithms() -> list[type]:
    return [getattr(tw.algorithms, name) for name in sorted(tw.algorithms.__all__, key=str.lower)]


def _asynchronous() -> dict[str, type]:
    return {name: getattr(tw.asynchronous, name) for name in sorted(tw.asynchronous.__all__, key=str.lower)}


def _servers() -> dict[str, type]:
    """Name → class; an export may also be a function that makes one."""
    found = {name: getattr(tw.server, name) for name in sorted(tw.server.__all__, key=str.lower)}
    return {name: value if inspect.isclass(value) else typing.get_type_hints(value)["return"] for name, value in found.items()}


def _prices() -> dict[str, type]:
    return {name: getattr(tw.price, name) for name in sorted(tw.price.__all__, key=str.lower)}


def _section(name: str, algorithm: type, family: str) -> str:
    claims = algorithm.claims
    limit = "the optimum itself" if claims.exact else "a neighbourhood of the optimum"
    if claims.centralised_on_complete:
        limit += "; on a complete graph, the central method"
    combine = ", ".join(f"`{field}`: {type(rule).__name__}" for field, rule in getattr(algorithm, "combine", {}).items())
    rows = [
        ("limit", limit),
        ("rate", claims.rate),
        ("proved in", claims.theorem),
        ("needs", _listing(algorithm.needs, NEEDS) or "nothing in particular"),
        ("can use", _listing(algorithm.handles, HANDLES)),
        ("stays exact under", _listing(algorithm.exact_under, FAILURES) or "no failures"),
        ("sends, combined by", combine),
        ("exchanges per round", _exchanges(algorithm)),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {title} | {value} |" for title, value in rows if value)])
    options = "{show_root_heading: false, show_root_toc_entry: false, members: false}"
    return f"## {name}\n\n::: thalweg.algorithm.{family}.{name}\n    options: {options}\n\n{table}"


def _exchanges(algorithm: type) -> str:
    if not hasattr(algorithm, "phases"):
        return "no rounds: a message to all neighbours at every wake"
    if isinstance(algorithm.phases, property):
        return "as many as its hyper-parameters say"
    return str(len(algorithm.phases))


def _listing(names: frozenset[str], words: dict[str, str]) -> str:
    if unknown := names - words.keys():
        raise KeyError(f"docs/hooks.py has no words for {', '.join(sorted(unknown))}")
    return ", ".join(words[name] for name in words if name in names)


def _on_directed(algorithm: type) -> bool:
    """Whether it runs on any strongly connected directed network."""
    rules = {type(rule).__name__ for rule in algorithm.combine.values()}
    return not rules & {"Mix", "Edges"} and not algorithm.needs & {"undirected", "symmetric", "doubly_stochastic"}


if __name__ == "__main__":
    print(fill(MARKER))
