"""Why a connection does not come about, in one line with the remedy.

Zenoh says little of it, and a peer that waits for others says nothing at all. So the way is tried again by hand: TCP, then TLS.
"""

import contextlib
import re
import socket
import ssl

from .identity import Identity

# Seconds that a server has to refuse a certificate, which it does after the handshake.
REFUSAL = 0.5


def split(endpoint: str) -> tuple[str, int]:
    """Host and port of an endpoint tls/host:port."""
    host, _, port = endpoint.partition("/")[2].rpartition(":")
    return host.strip("[]"), int(port)


def distrust(endpoint: str, identity: Identity, timeout: float) -> str | None:
    """What is wrong with the certificate at an endpoint, which no waiting mends; None if nothing, or if nobody is there."""
    try:
        with socket.create_connection(split(endpoint), timeout) as plain, _context(identity).wrap_socket(plain):
            return None
    except ssl.SSLCertVerificationError as error:
        return f"{endpoint}: {_distrust(error)}"
    except OSError:
        return None


def probe(endpoint: str, identity: Identity | None, timeout: float) -> str | None:
    """What is wrong with the way to an endpoint; None if nothing."""
    host, port = split(endpoint)
    try:
        with socket.create_connection((host, port), timeout) as plain:
            if identity is None:
                return None
            plain.settimeout(timeout)
            with _context(identity).wrap_socket(plain) as secure:
                secure.settimeout(REFUSAL)
                # A server that has nothing against the certificate waits for Zenoh's first words.
                with contextlib.suppress(TimeoutError):
                    secure.recv(1)
                return None
    except ssl.SSLCertVerificationError as error:
        return f"{endpoint}: {_distrust(error)}"
    except ssl.SSLError as error:
        return f"{endpoint}: {_refusal(error)}"
    except socket.gaierror:
        return f"{endpoint}: there is no host {host!r}; check its name"
    except TimeoutError:
        return f"{endpoint}: no answer within {timeout:g} s; check the address, and that firewalls let the port through"
    except ConnectionRefusedError:
        return f"{endpoint}: nothing listens there; start the site or the router first, or check the port"
    except OSError as error:
        return f"{endpoint}: {error.strerror or error}; check the address and the network"


def explain(error: Exception, listen: list[str], connect: list[str], identity: Identity | None, timeout: float) -> Exception:
    """The error to raise in place of one of Zenoh's, which it gave when a session was to be opened."""
    text = str(error)
    if re.search(r"in use|os error 98|os error 48|10048", text):
        return OSError(f"the port of {_named(text, listen)} is taken by another program; stop that, or listen on another port")
    if re.search(r"assign requested|os error 99|os error 49", text):
        return OSError(f"{_named(text, listen)} is not an address of this machine; listen on 0.0.0.0, or on one of its own")
    if re.search(r"denied|os error 13", text):
        return OSError(f"this user may not listen on {_named(text, listen)}; take a port above 1023")
    found = [trouble for endpoint in connect if (trouble := probe(endpoint, identity, timeout)) is not None]
    if found:
        return OSError(f"no way to the router: {'; '.join(found)}")
    return OSError(f"Zenoh opened no session: {' '.join(text.split())[:200]}; check the endpoints and the certificates")


def _named(text: str, listen: list[str]) -> str:
    return next((endpoint for endpoint in listen if endpoint.partition("/")[2] in text), ", ".join(listen))


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(identity.folder / "ca.pem")
    context.load_cert_chain(identity.folder / "cert.pem", identity.folder / "key.pem")
    return context


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    if "expired" in error.verify_message:
        return "its certificate has expired; `thalweg keys renew` makes a new one"
    if "not yet valid" in error.verify_message:
        return "its certificate is not valid yet; set the clocks"
    return "its certificate is of another authority; both ends need folders of one `thalweg keys init`"


def _refusal(error: ssl.SSLError) -> str:
    reason = str(error.reason or error).lower()
    if "expired" in reason:
        return "it finds this site's certificate expired; `thalweg keys renew` makes a new one"
    if "unknown_ca" in reason or "unknown ca" in reason or "decrypt" in reason or "bad_certificate" in reason:
        return (
            "it takes this site's certificate for one of another authority; both ends need folders of one `thalweg keys init`"
        )
    return f"what listens there does not speak TLS as Thalweg does ({reason}); check the port"
