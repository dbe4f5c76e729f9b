"""A site of an experiment file: from the file, the site's own records and its keys to a process that takes part."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from thalweg.engine import Stop
from thalweg.experiment import Experiment, Mistake
from thalweg.experiment.deployment import DeployTable, one_of
from thalweg.experiment.experiment import made
from thalweg.experiment.problems import piece as piece_of
from thalweg.experiment.stated import Piece
from thalweg.network import Network
from thalweg.observe.describing import describe

from .identity import Identity
from .peer import Peer
from .post import Post
from .site import Settings
from .zenoh_post import ZenohPost

# What the certificate of a router says.
ROUTER = "router"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Everything that one site needs but the network: built, checked, and nothing sent.

    Attributes:
        experiment: the file; name: of this site; sites: of those that hold the pieces, in order.
        piece: what this site holds.
        algorithm, network, stop: built from their tables; there is no network with a server.
        hash: of what all sites must have in common.
    """

    experiment: Experiment
    name: str
    sites: tuple[str, ...]
    piece: Piece
    algorithm: Any
    network: Network | None
    stop: Stop | None
    hash: str

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
        return said if network is None else said | {"network": repr(network)}


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
    sites = experiment.sites
    one_of(name, sites)
    dtype = np.dtype(experiment.settings.dtype)
    return Prepared(
        experiment=experiment,
        name=name,
        sites=sites,
        piece=piece_of(experiment.problem, experiment.base, dtype, sites, sites.index(name), data),
        algorithm=experiment.algorithm.build(),
        network=_network(experiment),
        stop=None if experiment.stop is None else made("stop", Stop, experiment.stop),
        hash=digest(experiment),
    )


def open_post(prepared: Prepared, keys: Path, listen: Sequence[str] = (), connect: Sequence[str] = ()) -> ZenohPost:
    """The site's end of the network: at its own endpoint, towards the others' or to the router, unless it is said otherwise.

    Raises:
        ValueError: keys that are missing, expired or another's; no endpoint.
        OSError: a port is taken, or the router is not there.
    """
    table = prepared.experiment.deploy
    listen, connect = list(listen), list(connect)
    if table is not None and not listen and not connect:
        listen, connect = _ways(table, prepared.name)
    if not (listen or connect):
        raise Mistake(
            f"deploy: got no way to the other sites of {prepared.name!r}, expected endpoints in [deploy.sites], a router, or "
            "--listen and --connect"
        )
    return ZenohPost(
        Identity.load(keys, prepared.name),
        prepared.sites if table is None else tuple(table.sites),
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
    watch: Callable[[int, dict[str, list[float]]], None] | None = None,
) -> Peer:
    """The site itself, ready to run.

    Raises:
        TypeError, ValueError: an impossible combination, before anything is sent.
    """
    experiment, table = prepared.experiment, prepared.experiment.deploy
    settings = dataclasses.replace(_settings(table), folder=folder)
    pipelines = {name: pipeline.build() for name, pipeline in experiment.pipelines.items()}
    if prepared.network is None:
        raise Mistake(f"algorithm: {experiment.algorithm.kind.__name__} has a server; `thalweg join` is for peers")
    return Peer(
        prepared.piece.problem,
        prepared.algorithm,
        prepared.network,
        sites=prepared.sites,
        post=post,
        rounds=experiment.settings.rounds,
        stop=prepared.stop,
        seed=experiment.settings.seed,
        link=pipelines.get("link"),
        aggregate=None if experiment.aggregate is None else experiment.aggregate.build(),
        weight=prepared.piece.weight,
        run=prepared.hash,
        settings=settings,
        deterministic=experiment.settings.deterministic,
        every=experiment.settings.every,
        watch=watch,
    )


def _network(experiment: Experiment) -> Network | None:
    return None if experiment.network is None else experiment.network.build(len(experiment.sites), experiment.base)


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
