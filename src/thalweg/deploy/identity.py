"""Who a site is: its key, its certificate, and the federation's authority that vouches for it and for the others."""

import dataclasses
import datetime
import re
from pathlib import Path
from typing import Any

from thalweg._extras import require

ROLES = ("site", "router")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_name(name: str) -> str:
    """The name of a site or a router, if it is one.

    Raises:
        ValueError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"got the name {name!r}, expected 1 to 64 letters, digits, - and _")
    return name


@dataclasses.dataclass(frozen=True)
class Authority:
    """The certificate of a federation's authority: whom to believe."""

    certificate: Any

    def check(self, certificate: Any) -> tuple[str, str]:
        """The name and the role that a certificate gives its owner.

        Raises:
            ValueError: it is not of this authority, or not valid now, or not one of a site.
        """
        exceptions = require("cryptography.exceptions", "net")
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, exceptions.InvalidSignature, exceptions.UnsupportedAlgorithm):
            raise ValueError(
                "the certificate is of another authority; get the site's folder from who made the federation"
            ) from None
        now = datetime.datetime.now(datetime.UTC)
        renewed = ("the certificate", "`thalweg keys renew` makes a new one")
        founded = ("the authority's certificate", "`thalweg keys init` makes a new federation")
        for one, (whose, remedy) in ((certificate, renewed), (self.certificate, founded)):
            if now > one.not_valid_after_utc:
                raise ValueError(f"{whose} expired on {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; {remedy}")
            if now < one.not_valid_before_utc:
                raise ValueError(
                    f"{whose} is valid from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; set this machine's clock"
                )
        return certificate_name(certificate)


@dataclasses.dataclass(frozen=True)
class Identity:
    """A site's own key and certificate, checked.

    Attributes:
        name, role: as the certificate says.
        folder: where the files are, which TLS reads itself: `ca.pem`, `cert.pem`, `key.pem`.
        certificate: DER.
        key: the private key, of `cryptography`.
        authority: of the federation.
    """

    name: str
    role: str
    folder: Path
    certificate: bytes
    key: Any = dataclasses.field(repr=False)
    authority: Authority

    @classmethod
    def load(cls, folder: str | Path, name: str | None = None) -> "Identity":
        """Read a site's folder.

        Args:
            folder: the site's own, with ca.pem, cert.pem and key.pem, or the federation's, with a folder per site.
            name: which the certificate must give; None: whatever it gives.

        Raises:
            ValueError: a file is missing or broken, or they do not belong together, or the certificate has expired; in one line.
        """
        folder = Path(folder)
        if not (folder / "cert.pem").exists():
            if name is None:
                raise ValueError(f"{folder} has no cert.pem; name the site, or give the folder of one site")
            folder = folder / "sites" / name
        path = folder / "cert.pem"
        certificate, key = read_certificate(path), read_key(folder / "key.pem")
        authority = Authority(read_certificate(folder / "ca.pem"))
        try:
            owner, role = authority.check(certificate)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if certificate.public_key() != key.public_key():
            raise ValueError(
                f"{folder / 'key.pem'} is not the key of cert.pem; take both from one folder as `thalweg keys` made it"
            )
        if name is not None and owner != name:
            raise ValueError(f"{path} is of {owner!r}, expected {name!r}; take the folder of that site")
        encoding = require("cryptography.hazmat.primitives.serialization", "net").Encoding
        return cls(owner, role, folder, certificate.public_bytes(encoding.DER), key, authority)

    def expired(self) -> list[str]:
        """What is wrong with the certificate by now: one line, or none."""
        try:
            self.authority.check(parse_certificate(self.certificate))
        except ValueError as error:
            return [f"site {self.name!r}: {error}"]
        return []

    def sign(self, text: bytes) -> bytes:
        """A signature that `signed` accepts together with this certificate."""
        ec, hashes = _primitives("asymmetric.ec"), _primitives("hashes")
        return self.key.sign(text, ec.ECDSA(hashes.SHA256()))


def signed(certificate: Any, signature: bytes, text: bytes) -> bool:
    """Whether the owner of a certificate signed `text`."""
    ec, hashes, exceptions = _primitives("asymmetric.ec"), _primitives("hashes"), require("cryptography.exceptions", "net")
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
    except exceptions.InvalidSignature:
        return False
    return True


def parse_certificate(text: bytes) -> Any:
    """A certificate in DER, not believed yet.

    Raises:
        ValueError: it is none.
    """
    x509 = require("cryptography.x509", "net")
    try:
        return x509.load_der_x509_certificate(text)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from None


def read_certificate(path: Path) -> Any:
    """A certificate in a file, in PEM.

    Raises:
        ValueError: there is none.
    """
    x509 = require("cryptography.x509", "net")
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; `thalweg keys init` makes a federation and `thalweg keys add` a site") from None
    except OSError as error:
        raise ValueError(_unreadable(path, error)) from None
    except ValueError:
        raise ValueError(f"{path} is not a certificate; copy it again, or `thalweg keys renew` makes a new one") from None


def read_key(path: Path) -> Any:
    """A private key in a file, in PEM.

    Raises:
        ValueError: there is none.
    """
    serialization = _primitives("serialization")
    exceptions = require("cryptography.exceptions", "net")
    try:
        return serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; `thalweg keys renew` makes a new key with its certificate") from None
    except OSError as error:
        raise ValueError(_unreadable(path, error)) from None
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm):
        raise ValueError(f"{path} is not a private key; copy it again, or `thalweg keys renew` makes a new one") from None


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror}; run as the user who owns it, or give it to this one"


def certificate_name(certificate: Any) -> tuple[str, str]:
    """The name and the role in a certificate, not believed yet.

    Raises:
        ValueError: it is not one that `thalweg keys` made for a site.
    """
    oid = require("cryptography.x509.oid", "net").NameOID
    try:
        [name] = certificate.subject.get_attributes_for_oid(oid.COMMON_NAME)
        [role] = certificate.subject.get_attributes_for_oid(oid.ORGANIZATIONAL_UNIT_NAME)
    except ValueError:
        name = role = None
    if role is None or role.value not in ROLES:
        raise ValueError("the certificate is not one of a site; `thalweg keys add` makes those")
    return str(name.value), str(role.value)


def _primitives(name: str):
    return require(f"cryptography.hazmat.primitives.{name}", "net")
