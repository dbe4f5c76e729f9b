"""A site of an experiment file: from the file, the site's own records and its keys to a process that takes part."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from thalweg.cohort import Everyone
from thalweg.engine import EventDriven, Stop, privacy, setup
from thalweg.engine.federate import wants_constants
from thalweg.engine.privacy import Spending
from thalweg.engine.refusals_server import cohort_of
from thalweg.experiment import Experiment, Mistake
from thalweg.experiment.deployment import DeployTable, one_of
from thalweg.experiment.experiment import made
from thalweg.experiment.problems import form as form_of
from thalweg.experiment.problems import piece as piece_of
from thalweg.experiment.stated import Piece
from thalweg.message.stage import Stage
from thalweg.network import Failures, Network
from thalweg.observe.describing import describe
from thalweg.privacy import Budget
from thalweg.problem import Coupled

from .asynchronous import AsynchronousPeer
from .card import asks_for_constants
from .client import Client
from .federation import Plan
from .identity import Identity
from .peer import Peer
from .post import Post
from .server import Server
from .site import Settings, Site, Watch
from .zenoh_post import ZenohPost

# What the certificate of a router says.
ROUTER = "router"

CONSTANTS_TOLD = (
    "before round 0 sites tell smoothness and strong convexity of what they hold, and of coupled problems what sums can be, "
    "without noise, and in no account of privacy; a method with a server that minimises losses does without if all its step "
    "sizes are stated"
)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Everything that one site needs but the network: built, checked, and nothing sent.

    Attributes:
        experiment: the file; name: of this site; sites: of those that hold the pieces, in order.
        piece: what this site holds; of the site that leads, the form of it.
        algorithm, network, stop, pipelines, aggregate: built from their tables; there is no network with a server.
        spending: how many rounds the experiment's budget of privacy allows, of all sites and of this one.
        hash: of what all sites must have in common.
        said: warnings.
    """

    experiment: Experiment
    name: str
    sites: tuple[str, ...]
    piece: Piece
    algorithm: Any
    network: Network | None
    stop: Stop | None
    pipelines: dict[str, Stage]
    aggregate: Any
    spending: Spending
    hash: str
    said: tuple[str, ...]

    @property
    def leads(self) -> bool:
        """Whether this is the site that leads."""
        return self.name == self.experiment.server

    @property
    def config(self) -> dict[str, Any]:
        """What is run, as plain data for reports."""
        settings, network = self.experiment.settings, self.network
        said = {
            "experiment": self.experiment.name,
            "hash": self.hash,
            "problem": f"{type(self.piece.problem).__name__}: {len(self.sites)} sites, {self.piece.problem.size} variables, "
            f"{self.piece.problem.dtype}",
            "stop": "none" if self.stop is None else describe(self.stop),
            "rounds": settings.rounds,
            "seed": settings.seed,
            "engine": f"deployed{', deterministic' if settings.deterministic else ''}",
        }
        said |= self.spending.config | setup.surroundings()
        return said | {"network": "one server" if network is None else repr(network)}


def digest(experiment: Experiment) -> str:
    """SHA-256 of what all sites of an experiment must have in common, a graph that the file names among them."""
    shared, network = experiment.shared, _network(experiment)
    if network is not None:
        shared["edges"] = np.asarray(network.edges).tolist()
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def prepare(experiment: Experiment, name: str, data: Path | None = None) -> Prepared:
    """Build what site `name` needs, with the records in its own CSV file `data`, or else its part of those that the file names.

    Raises:
        Mistake: there is no such site, or something cannot be built, or cannot be deployed.
    """
    if experiment.settings.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if experiment.adversary is not None:
        raise Mistake("adversary: got a table [adversary], expected none: sites that lie are simulated, not deployed")
    sites, dtype = experiment.sites, np.dtype(experiment.settings.dtype)
    one_of(name, experiment.everybody)
    leads, about = name == experiment.server, (experiment.problem, experiment.base, dtype, sites)
    if leads and data is not None:
        raise Mistake(f"--data: got a file, expected none: {name!r} leads, and holds no records")
    algorithm, stop = experiment.algorithm.build(), experiment.stop
    pipelines = {way: pipeline.build() for way, pipeline in experiment.pipelines.items()}
    aggregate = None if experiment.aggregate is None else experiment.aggregate.build()
    piece = form_of(*about) if leads else piece_of(*about, sites.index(name), data)
    spending = _spending(experiment, algorithm, None if leads else piece.problem, pipelines, aggregate)
    unused: tuple[str, ...] = ()
    network = _network(experiment)
    if network is not None and not experiment.algorithm.has_rounds:
        unused += ("network.failures are for simulations: what is lost here is really lost",) if network.failures.any else ()
        network = dataclasses.replace(network, failures=Failures())
    return Prepared(
        experiment=experiment,
        name=name,
        sites=sites,
        piece=piece,
        algorithm=algorithm,
        network=network,
        stop=None if stop is None else made("stop", Stop, stop),
        pipelines=pipelines,
        aggregate=aggregate,
        spending=spending,
        hash=digest(experiment),
        said=spending.said + unused,
    )


def _spending(experiment: Experiment, algorithm: Any, problem: Any, pipelines: dict[str, Stage], aggregate: Any) -> Spending:
    """How many rounds fit into `[privacy]`: of all sites, and of this one, with its own `problem` (None: it leads)."""
    table, rounds = experiment.privacy, experiment.settings.rounds
    if table is None:
        return Spending(rounds, rounds)
    budget, n, led = made("privacy", Budget, table), len(experiment.sites), experiment.server is not None
    if experiment.stop is not None and not led:
        raise Mistake(
            "privacy: got a table [stop], by which peers tell each other without noise how far they are; leave it out"
        )
    try:
        if led:
            cohort = cohort_of(algorithm, n)
            account = privacy.of_client(algorithm, problem, cohort, pipelines.get("uplink"), aggregate)
            if isinstance(experiment.settings.made_engine(), EventDriven):
                cohort = None
        else:
            account, cohort = privacy.of_peers(algorithm, pipelines.get("link"), ()), Everyone()
        spending = privacy.deployed(account, budget, rounds, cohort, n)
    except ValueError as error:
        raise Mistake(f"privacy: {str(error).removeprefix('solve: ')}") from error
    told = isinstance(problem, Coupled) or (wants_constants(algorithm) if led else asks_for_constants(algorithm))
    return dataclasses.replace(spending, said=(*spending.said, CONSTANTS_TOLD)) if told else spending


def open_post(prepared: Prepared, keys: Path, listen: Sequence[str] = (), connect: Sequence[str] = ()) -> ZenohPost:
    """The site's end of the network: at its own endpoint, towards the others' or to the router, unless it is said otherwise.

    Raises:
        ValueError: keys that are missing, expired or another's; no endpoint.
        OSError: a port is taken, or the router is not there.
    """
    table = prepared.experiment.deploy
    listen, connect = list(listen), list(connect)
    if table is not None:
        own, others = _ways(table, prepared.name)
        listen, connect = listen or own, connect or others
    if not (listen or connect):
        raise Mistake(
            f"deploy: got no way to the other sites of {prepared.name!r}, expected endpoints in [deploy.sites], a router, or "
            "--listen and --connect"
        )
    return ZenohPost(
        Identity.load(keys, prepared.name),
        prepared.experiment.everybody,
        run=_channel(prepared.experiment),
        listen=listen,
        connect=connect,
        routed=not listen,
        routers=(ROUTER,),
        timeout=_settings(table).timeout,
    )


def site_of(
    prepared: Prepared,
    post: Post,
    folder: Path | None = None,
    watch: Watch | None = None,
) -> Site:
    """The site itself, ready to run.

    Raises:
        TypeError, ValueError: an impossible combination, before anything is sent.
    """
    experiment, p = prepared.experiment, prepared
    around = {
        "sites": p.sites,
        "post": post,
        "columns": p.piece.columns,
        "run": p.hash,
        "settings": dataclasses.replace(_settings(experiment.deploy), folder=folder),
        "every": experiment.settings.every,
        "watch": watch,
    }
    common = {
        "rounds": p.spending.rounds,
        "seed": experiment.settings.seed,
        "aggregate": p.aggregate,
        "deterministic": experiment.settings.deterministic,
        **p.pipelines,
    }
    problem, weight = p.piece.problem, p.piece.weight
    if not experiment.algorithm.has_rounds:
        return AsynchronousPeer(
            problem, p.algorithm, p.network,
            wakes=p.spending.rounds, stop=p.stop, period=_period(p), weight=weight, seed=common["seed"],
            deterministic=common["deterministic"], **around,
        )  # fmt: skip
    if p.network is not None:
        return Peer(
            problem, p.algorithm, p.network, stop=p.stop, weight=weight, allowance=p.spending.allowance, **common, **around
        )
    engine = experiment.settings.made_engine()
    plan = Plan(p.algorithm, engine=engine if isinstance(engine, EventDriven) else None, **common)
    if p.leads:
        return Server(problem, plan, stop=p.stop, **around)
    return Client(problem, plan, server=experiment.server, weight=weight, allowance=p.spending.allowance, **around)


def _network(experiment: Experiment) -> Network | None:
    return None if experiment.network is None else experiment.network.build(len(experiment.sites), experiment.base)


def _period(p: Prepared) -> float:
    """Seconds between two wakes of this site, by `[clocks]`; 0 without: it wakes when it hears."""
    clocks = p.experiment.made_clocks()
    return 0.0 if clocks is None else float(clocks.of("period", len(p.sites))[p.sites.index(p.name)])


def _settings(table: DeployTable | None) -> Settings:
    return (
        Settings()
        if table is None
        else Settings(timeout=table.timeout, wait=table.wait, quorum=table.quorum, fsync=table.fsync)
    )


def _ways(table: DeployTable, name: str) -> tuple[list[str], list[str]]:
    """Where a site listens, and where it connects to."""
    if table.router is not None:
        return [], [table.router]
    own, others = table.endpoints.get(name), [place for site, place in table.endpoints.items() if site != name]
    return ([] if own is None else [_everywhere(own)]), others


def _everywhere(endpoint: str) -> str:
    """The endpoint at which others find a site, as one to listen at: behind a firewall it may have another address inside."""
    host, port = endpoint.removeprefix("tls/").rsplit(":", 1)
    here = host in ("localhost", "[::1]") or host.startswith("127.")
    return endpoint if here else f"tls/0.0.0.0:{port}"


def _channel(experiment: Experiment) -> str:
    """What sites that run the same file find each other by; that it is the same is checked when they meet, by its hash."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", experiment.name)[:128] or "run"
