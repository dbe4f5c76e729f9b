"""How Zenoh is set up: endpoints, mutual TLS, and who may do what on which key.

Keys are

    thalweg/<run>/<to>/<from>                frames from one site to another
    thalweg/<run>/@here/<site>/<session>     tokens of sessions that are alive

and the certificate at the other end of a link decides: a site may put under its own <from>, subscribe under its own <to>, have
tokens under its own name and see everybody's. Whatever else comes over a link, or would go out on it, Zenoh drops, at peers and at
routers alike. Routers may pass on everything of a run; that they alter nothing is the seal's business (`thalweg.deploy.seal`).
"""

import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from thalweg._extras import require

from .frame import HEADER_BYTES, TAG_BYTES, run_bytes

PREFIX = "thalweg"
# Bytes of the largest body, where nothing else is said.
MOST = 2**28
_ENDPOINT = re.compile(r"(tls|tcp)/(\[[0-9a-fA-F:]+\]|[^/:\s]+):(\d{1,5})")
# Seconds for a connection to be made, of several round trips each: more than the time-out of silence.
OPENING = 5.0


class Credentials(NamedTuple):
    """A site's or a router's, in PEM."""

    ca: bytes
    certificate: bytes
    key: bytes

    def inline(self) -> dict[str, str]:
        """As Zenoh's configuration has them, in the file itself."""
        ca, certificate, key = (base64.b64encode(text).decode() for text in self)
        return _tls(ca, certificate, key, "_base64")


def from_folder(folder: Path) -> dict[str, str]:
    """A site's credentials as Zenoh's configuration has them, by the names of their files."""
    return _tls(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"), "")


def run_key(run: str) -> str:
    """A run's part of all its keys."""
    return run_bytes(run).hex()


def frames_key(run: str, to: str, sender: str) -> str:
    """Of the frames from one site to another; `run` is a `run_key`, "*" stands for all."""
    return f"{PREFIX}/{run}/{to}/{sender}"


def alive_key(run: str, site: str, session: str) -> str:
    """Of a session that is alive; "*" stands for all."""
    return f"{PREFIX}/{run}/@here/{site}/{session}"


def check_endpoints(endpoints: Iterable[str], insecure: bool) -> list[str]:
    """The endpoints, if they are such.

    Raises:
        ValueError: one is not of the form tls/host:port.
    """
    found, protocol = list(endpoints), "tcp" if insecure else "tls"
    for endpoint in found:
        match = _ENDPOINT.fullmatch(endpoint)
        if match is None or match[1] != protocol or int(match[3]) > 65535:
            raise ValueError(f"got the endpoint {endpoint!r}, expected {protocol}/host:port, such as {protocol}/10.0.0.1:7447")
    return found


def access(run: str, sites: Iterable[str], routers: Iterable[str], me: str | None) -> dict[str, Any]:
    """Zenoh's table of who may do what, by the common name of the certificate at the other end of a link.

    Args:
        run: the `run_key`; "*" for a router of any.
        sites, routers: who may take part.
        me: the site whose table it is; None for a router's.
    """
    rules, subjects, policies = [], [], []

    def rule(name: str, flow: str, keys: list[str], *messages: str) -> str:
        rules.append({"id": name, "permission": "allow", "flows": [flow], "messages": list(messages), "key_exprs": keys})
        return name

    everyone, seeing = [alive_key(run, "*", "*")], ("declare_liveliness_subscriber", "liveliness_query")
    see = [rule(f"see {flow}", flow, everyone, *seeing) for flow in ("ingress", "egress")]
    told = rule("tokens of all", "egress", everyone, "liveliness_token")
    # What this end subscribes to, or passes on of others' subscriptions.
    asks = rule("subscriptions out", "egress", [frames_key(run, me or "*", "*")], "declare_subscriber")
    for site in sites:
        mine = [
            rule(f"put {site}", "ingress", [frames_key(run, me or "*", site)], "put"),
            rule(f"subscribe {site}", "ingress", [frames_key(run, site, "*")], "declare_subscriber"),
            rule(f"token {site}", "ingress", [alive_key(run, site, "*")], "liveliness_token"),
            rule(f"to {site}", "egress", [frames_key(run, site, me or "*")], "put"),
        ]
        subjects.append({"id": site, "cert_common_names": [site]})
        policies.append({"rules": [*see, told, asks, *mine], "subjects": [site]})
    whole = [frames_key(run, "*", "*"), *everyone]
    messages = ("put", "declare_subscriber", "liveliness_token", *seeing)
    passing = [rule(f"router {flow}", flow, whole, *messages) for flow in ("ingress", "egress")]
    for router in sorted(set(routers)):
        subjects.append({"id": router, "cert_common_names": [router]})
        policies.append({"rules": passing, "subjects": [router]})
    return {"enabled": True, "default_permission": "deny", "rules": rules, "subjects": subjects, "policies": policies}


def settings(
    mode: str,
    listen: list[str],
    connect: list[str],
    timeout: float,
    most: int,
    credentials: dict[str, str] | None,
    table: dict[str, Any] | None,
) -> dict[str, Any]:
    """Zenoh's configuration, path → value.

    Args:
        mode: "peer", "client" or "router".
        listen, connect: endpoints.
        timeout: seconds after which a silent connection is given up.
        most: largest body in bytes.
        credentials: for mutual TLS; None without.
        table: of `access`; None without.
    """
    milliseconds = int(1000 * timeout)
    found: dict[str, Any] = {
        "mode": mode,
        "listen/endpoints": listen,
        "listen/exit_on_failure": True,
        "connect/endpoints": connect,
        # A client is nobody without its router; a peer may be the first to come.
        "connect/timeout_ms": milliseconds if mode == "client" else -1,
        "connect/exit_on_failure": mode == "client",
        "connect/retry": {"period_init_ms": 200, "period_max_ms": 1000, "period_increase_factor": 2},
        "scouting/multicast/enabled": False,
        "open/return_conditions": {"connect_scouted": False, "declares": True},
        "transport/unicast/open_timeout": int(1000 * max(timeout, OPENING)),
        "transport/unicast/accept_timeout": int(1000 * max(timeout, OPENING)),
        "transport/link/tx/lease": milliseconds,
        # A letter that does not get out holds up its sender no longer than that.
        "transport/link/tx/queue/congestion_control/block/wait_before_close": 1000 * milliseconds,
        "transport/link/rx/max_message_size": most + HEADER_BYTES + TAG_BYTES + 2**16,
        "transport/link/protocols": ["tcp" if credentials is None else "tls"],
        # Letters would pass beside TLS, and Zenoh's watchdog may drop some under load.
        "transport/shared_memory/enabled": False,
    }
    if credentials is not None:
        found["transport/link/tls"] = credentials
    if table is not None:
        found["access_control"] = table
    return found


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """`settings` as a file has them: a path's parts one in the other."""
    whole: dict[str, Any] = {}
    for path, value in flat.items():
        *parts, last = path.split("/")
        inner = whole
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return whole


def config(flat: dict[str, Any]) -> Any:
    """A `zenoh.Config`."""
    return require("zenoh", "net").Config.from_json5(json.dumps(nested(flat)))


def _tls(ca: str, certificate: str, key: str, how: str) -> dict[str, Any]:
    return {
        f"root_ca_certificate{how}": ca,
        f"listen_private_key{how}": key,
        f"listen_certificate{how}": certificate,
        f"connect_private_key{how}": key,
        f"connect_certificate{how}": certificate,
        "enable_mtls": True,
        # Certificates are of sites, not of hosts: who is at the other end is checked by name, wherever that is.
        "verify_name_on_connect": False,
        "close_link_on_expiration": True,
    }
