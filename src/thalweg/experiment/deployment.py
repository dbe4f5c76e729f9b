"""`[deploy]`: who the sites are, where they are found, and how they bear failures. A simulated run takes no notice of it.

    [deploy]
    sites = ["cleveland", "hungary", "va"]      # in the order of the agents; all of them connect to the router
    router = "tls/router.example.org:7447"

or, where sites can reach each other,

    [deploy.sites]
    cleveland = "tls/thalweg.cleveland.example.org:7447"
    hungary = "tls/thalweg.hungary.example.org:7447"
"""

import re
from collections.abc import Sequence

from pydantic import Field, field_validator, model_validator

from .mistakes import Mistake, shown, unknown_name
from .signature import Table

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ENDPOINT = re.compile(r"tls/(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})")


class DeployTable(Table):
    """`[deploy]`."""

    sites: dict[str, str] | list[str] = Field(
        description='a table name = "tls/host:port", or with router a list of names, in the order of the agents'
    )
    router: str | None = Field(None, description='the router that all sites connect to, "tls/host:port"')
    server: str | None = Field(None, description="the name of the site that leads, for methods with a server or a price")
    timeout: float = Field(5.0, gt=0, description="seconds > 0 until a message is asked for again, or a silent site is gone")
    wait: float = Field(600.0, gt=0, description="seconds > 0 to wait for sites that are missing")
    quorum: int | None = Field(None, ge=1, description="a whole number ≥ 1 of sites without which no round begins")
    fsync: bool = Field(False, description="true or false: whether a site waits for its disk in every round")

    @field_validator("sites")
    @classmethod
    def _named(cls, sites: dict[str, str] | list[str]) -> dict[str, str] | list[str]:
        check_names(list(sites))
        for name, place in sites.items() if isinstance(sites, dict) else ():
            _check_endpoint(place, f"for {name!r} ")
        return sites

    @field_validator("router")
    @classmethod
    def _reachable(cls, router: str | None) -> str | None:
        if router is not None:
            _check_endpoint(router)
        return router

    @model_validator(mode="after")
    def _whole(self) -> "DeployTable":
        if self.server is not None and self.server not in self.sites:
            raise ValueError(f"server: got {shown(self.server)}, expected one of the sites: {', '.join(self.sites)}")
        if self.quorum is not None and self.quorum > len(self.sites):
            raise ValueError(f"quorum: got {self.quorum}, expected at most the number of sites, {len(self.sites)}")
        return self

    @property
    def agents(self) -> tuple[str, ...]:
        """The sites that hold a piece of the problem, in order."""
        return tuple(name for name in self.sites if name != self.server)

    @property
    def endpoints(self) -> dict[str, str]:
        """Site → where it listens, of those that say so."""
        return dict(self.sites) if isinstance(self.sites, dict) else {}

    def check(self, name: str, has_server: bool) -> None:
        """Whether it fits to an algorithm of this name.

        Raises:
            Mistake: a server where there is none, or none where there must be one.
        """
        if has_server and self.server is None:
            raise Mistake(f"deploy.server: got nothing, expected one of {', '.join(self.sites)}: {name} has a site that leads")
        if not has_server and self.server is not None:
            raise Mistake(f"deploy.server: got {shown(self.server)}, expected nothing: {name} has no server")


def check_names(sites: Sequence[str]) -> None:
    """Names that can stand in certificates, paths and keys, all different.

    Raises:
        ValueError: another.
    """
    for name in sites:
        if not NAME.fullmatch(name):
            raise ValueError(f"expected names of 1 to 64 letters, digits, - and _: {shown(name)} is none")
    twice = next((name for name in sites if list(sites).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"expected names that differ: two sites are called {twice!r}")
    if len(sites) < 2:
        raise ValueError("expected at least two sites")


def one_of(name: str, sites: Sequence[str], where: str = "--site") -> str:
    """`name`, if it is that of a site.

    Raises:
        Mistake: it is not.
    """
    if name not in sites:
        raise unknown_name(where, name, sites)
    return name


def _check_endpoint(text: str, whose: str = "") -> None:
    found = ENDPOINT.fullmatch(text)
    if not found or not 0 < int(found[2]) < 65536:
        raise ValueError(f'expected {whose}"tls/host:port" with a port from 1 to 65535: {shown(text)} is none')
