"""Who signs in a secure sum: a key of every process, for which its site's certificate vouches.

The protocol signs with Ed25519, and certificates have keys of the curve P-256, which TLS wants. So a process makes a key of its own
for its sums, which is never stored, and signs the public one with its certificate's key. Nobody between two sites, the server least
of all, can put another key in its place: it would need the certificate's.

    proof    public key (32 bytes), size of the certificate (u2, little-endian), certificate (DER), signature of it all and the run
"""

import hashlib
import os

from thalweg.message.secure import crypto

from .identity import Authority, Identity, parse_certificate, signed

_PURPOSE = b"thalweg signer of sums 1"
_START = crypto.KEY_BYTES + 2
# In the place of a key that is not known: no private key belongs to it that anybody could know.
NOBODY = hashlib.sha256(_PURPOSE + b": nobody").digest()


class Signer:
    """A process's key.

    Attributes:
        key: private; public: the other half; proof: what shows others whose it is.
    """

    def __init__(self, identity: Identity, run: str):
        self.key = os.urandom(crypto.KEY_BYTES)
        self.public = crypto.signing_public(self.key)
        said = self.public + len(identity.certificate).to_bytes(2, "little") + identity.certificate
        self.proof = said + identity.sign(_statement(run, said))


def vouched(authority: Authority, run: str, name: str, proof: bytes) -> bytes:
    """The public key of site `name`.

    Raises:
        ValueError: the proof does not show that it is one's of this name, in this run.
    """
    size = int.from_bytes(proof[crypto.KEY_BYTES : _START], "little")
    said, signature = proof[: _START + size], proof[_START + size :]
    if len(said) != _START + size:
        raise ValueError(f"got a proof of {len(proof)} bytes of who {name!r} is, expected a key, a certificate and a signature")
    certificate = parse_certificate(said[_START:])
    owner, role = authority.check(certificate)
    if (owner, role) != (name, "site"):
        raise ValueError(f"got the certificate of the {role} {owner!r}, expected that of the site {name!r}")
    if not signed(certificate, signature, _statement(run, said)):
        raise ValueError(f"the key that is said to be {name!r}'s is not signed with its certificate's key, or for another run")
    return said[: crypto.KEY_BYTES]


def _statement(run: str, said: bytes) -> bytes:
    return _PURPOSE + hashlib.sha256(run.encode()).digest() + said
