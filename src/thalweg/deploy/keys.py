"""A federation's keys: one certificate authority, and a key with a certificate per site.

    federation/
      ca.pem  ca.key                 the authority; `ca.key` signs new sites and stays where it was made
      sites/cleveland/               what one site gets, whole, over a way that is trusted
        ca.pem  cert.pem  key.pem
      routers/router.json5           what one router gets: a configuration of Zenoh's router, with its key in it

All keys are of the curve P-256, with certificates signed by ECDSA and SHA-256: TLS libraries of every maker, that of Zenoh among
them, take them for both ends of a connection. A certificate's common name is the site's name, its unit what the site is: a "site",
or a "router" that only passes on what it cannot read. Certificates speak of sites, not of hosts: whoever has the key of a site's
certificate is that site, at whatever address. Uses the package `cryptography` (extra "net").
"""

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from thalweg._extras import require

from . import zenoh_config as net
from .identity import check_name, read_certificate, read_key

DAYS, CA_DAYS = 365, 3650
# Clocks differ: a certificate made now is valid at a site whose clock is behind.
SLACK = datetime.timedelta(hours=1)


def init(folder: str | Path, sites: Sequence[str], *, days: float = DAYS) -> Path:
    """Make the authority of a new federation, and the folders of its sites.

    Args:
        folder: where; made if it is not there.
        sites: names, of letters, digits, - and _.
        days: how long the sites' certificates are valid; the authority's is for 10 years, or as long.

    Raises:
        ValueError: there is a federation in the folder, or a name is not one, or is there twice.
    """
    folder, names = Path(folder), [check_name(name) for name in sites]
    if (folder / "ca.key").exists():
        raise ValueError(
            f"{folder} has an authority already; `thalweg keys add` makes a site more, another folder another federation"
        )
    _check_days(days)
    if not names:
        raise ValueError("got no sites, expected at least one name")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two sites are called {twice[0]!r}, expected names that differ")
    folder.mkdir(parents=True, exist_ok=True)
    x = _x509()
    key = x.ec.generate_private_key(x.ec.SECP256R1())
    name = x.x509.Name([x.x509.NameAttribute(x.oid.COMMON_NAME, "Thalweg federation " + os.urandom(4).hex())])
    certificate = (
        _builder(x, name, name, key.public_key(), _now() + datetime.timedelta(days=max(days, CA_DAYS)))
        .add_extension(x.x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(x, key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, x.hashes.SHA256())
    )
    _write(folder / "ca.key", _pem(key, x), 0o600)
    _write(folder / "ca.pem", certificate.public_bytes(x.serialization.Encoding.PEM))
    for site in names:
        _issue(folder, site, days)
    return folder


def add(folder: str | Path, site: str, *, days: float = DAYS) -> Path:
    """Make the folder of one site more.

    Raises:
        ValueError: the site is there, its name is not one, or the folder has no authority.
    """
    folder = Path(folder)
    if (folder / "sites" / check_name(site)).exists():
        raise ValueError(f"{folder / 'sites' / site} is there already; `thalweg keys renew` gives the site a new key")
    if site in _routers(folder):
        raise ValueError(f"a router is called {site!r} already, expected another name")
    return _issue(folder, site, days)


def renew(folder: str | Path, site: str, *, days: float = DAYS) -> Path:
    """Give a site a new key and a new certificate. The old ones stay valid until they expire, and the other sites need not know.

    Raises:
        ValueError: there is no such site, or the folder has no authority.
    """
    folder = Path(folder)
    if not (folder / "sites" / check_name(site)).exists():
        raise ValueError(f"{folder} has no site {site!r}; `thalweg keys add` makes one")
    return _issue(folder, site, days)


def show(folder: str | Path) -> list[tuple[str, datetime.datetime, str]]:
    """The sites: (name, valid until, SHA-256 of the certificate in hexadecimal), by name.

    Raises:
        ValueError: the folder has no authority, or a file in it is broken.
    """
    folder = Path(folder)
    read_certificate(folder / "ca.pem")
    sha256 = require("cryptography.hazmat.primitives.hashes", "net").SHA256()
    found = [(path.parent.name, read_certificate(path)) for path in sorted(folder.glob("sites/*/cert.pem"))]
    return [(name, certificate.not_valid_after_utc, certificate.fingerprint(sha256).hex()) for name, certificate in found]


def router(
    folder: str | Path,
    *,
    listen: Sequence[str],
    connect: Sequence[str] = (),
    name: str = "router",
    timeout: float = 5.0,
    most: int = net.MOST,
    days: float = DAYS,
) -> Path:
    """Make the configuration of a Zenoh router that the federation's sites, and nobody else, can meet at.

    The file has all that the router needs, a new key and certificate of its own among it: `zenohd -c router.json5` runs it, or
    `zenoh.open(zenoh.Config.from_file("router.json5"))` in a Python program. Make it again when a site was added, or before it
    expires.

    Args:
        listen: where sites connect to, as tls/host:port. connect: other routers of the federation.
        name: of this router among them. Sites are told of it by `ZenohPost(routers=…)`, unless it is "router".
        timeout, most: as of `ZenohPost`.

    Raises:
        ValueError: an endpoint is not one, the name is a site's, or the folder has no authority.
    """
    folder, sites = Path(folder), sorted(path.name for path in Path(folder).glob("sites/*"))
    if check_name(name) in sites:
        raise ValueError(f"a site is called {name!r} already, expected another name")
    listen, connect = net.check_endpoints(listen, False), net.check_endpoints(connect, False)
    key, certificate = _signed(folder, name, "router", _check_days(days))
    encoded = net.Credentials((folder / "ca.pem").read_bytes(), certificate, key).inline()
    table = net.access("*", sites, [*_routers(folder), name], None)
    settings = net.nested(net.settings("router", listen, connect, timeout, most, encoded, table))
    path = folder / "routers" / f"{name}.json5"
    path.parent.mkdir(exist_ok=True, mode=0o700)
    _write(path, json.dumps(settings, indent=2).encode() + b"\n", 0o600)
    return path


def _routers(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("routers/*.json5")}


def _issue(folder: Path, site: str, days: float) -> Path:
    key, certificate = _signed(folder, site, "site", _check_days(days))
    own = folder / "sites" / site
    own.mkdir(exist_ok=True, mode=0o700, parents=True)
    # Readers that come in between find a pair that does not belong together, and say so; never half a file.
    _write(own / "key.pem", key, 0o600)
    _write(own / "cert.pem", certificate)
    _write(own / "ca.pem", (folder / "ca.pem").read_bytes())
    return own


def _signed(folder: Path, name: str, role: str, days: float) -> tuple[bytes, bytes]:
    """A new key and its certificate, in PEM."""
    if not (folder / "ca.key").exists():
        raise ValueError(f"{folder} has no ca.key, without which nobody can be signed; `thalweg keys init` makes a federation")
    x, authority, signer = _x509(), read_certificate(folder / "ca.pem"), read_key(folder / "ca.key")
    key = x.ec.generate_private_key(x.ec.SECP256R1())
    until = min(_now() + datetime.timedelta(days=days), authority.not_valid_after_utc)
    attribute = x.x509.NameAttribute
    subject = x.x509.Name([attribute(x.oid.ORGANIZATIONAL_UNIT_NAME, role), attribute(x.oid.COMMON_NAME, name)])
    certificate = (
        _builder(x, subject, authority.subject, key.public_key(), until)
        .add_extension(x.x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(x, digital_signature=True), critical=True)
        .add_extension(x.x509.ExtendedKeyUsage([x.usage.SERVER_AUTH, x.usage.CLIENT_AUTH]), critical=False)
        .add_extension(x.x509.SubjectAlternativeName([x.x509.DNSName(name)]), critical=False)
        .add_extension(x.x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, x.hashes.SHA256())
    )
    return _pem(key, x), certificate.public_bytes(x.serialization.Encoding.PEM)


def _builder(x: SimpleNamespace, subject, issuer, public, until: datetime.datetime):
    key_id = x.x509.SubjectKeyIdentifier.from_public_key(public)
    builder = x.x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x.x509.random_serial_number()).not_valid_before(_now() - SLACK).not_valid_after(until)
    return builder.add_extension(key_id, critical=False)


def _usage(x: SimpleNamespace, **wanted: bool):
    names = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    flags = dict.fromkeys([*names.split(), "encipher_only", "decipher_only"], False)
    return x.x509.KeyUsage(**flags | wanted)


def _pem(key, x: SimpleNamespace) -> bytes:
    s = x.serialization
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())


def _write(path: Path, text: bytes, mode: int = 0o644) -> None:
    """Whole or not at all; and nobody else may read a key, not even for the moment between making the file and closing it."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(text)
    new.replace(path)


def _check_days(days: float) -> float:
    if not days > 0:
        raise ValueError(f"days: got {days}, expected a positive number")
    return days


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _x509() -> SimpleNamespace:
    primitives = "cryptography.hazmat.primitives"
    return SimpleNamespace(
        x509=require("cryptography.x509", "net"),
        oid=require("cryptography.x509.oid", "net").NameOID,
        usage=require("cryptography.x509.oid", "net").ExtendedKeyUsageOID,
        ec=require(f"{primitives}.asymmetric.ec", "net"),
        hashes=require(f"{primitives}.hashes", "net"),
        serialization=require(f"{primitives}.serialization", "net"),
    )
