"""The protocol behind a secure sum: masks that cancel, whoever drops out.

    client        advertise → share → mask → (attest →) unmask
    server        receive, advance                              bytes in, bytes out: any network carries them

Keith Bonawitz, Vladimir Ivanov, Ben Kreuter, Antonio Marcedone, H. Brendan McMahan, Sarvar Patel, Daniel Ramage, Aaron Segal, Karn
Seth, *Practical secure aggregation for privacy-preserving machine learning*, CCS 2017.
"""

from . import ckks
from .client import Client
from .errors import ProtocolError, TooFewClients
from .exact_noise import discrete_gaussian
from .graph import degree
from .server import Server
from .setup import Setup
from .simulate import Transcript, simulate
from .wire import sent_bytes

__all__ = [
    "Client", "ProtocolError", "Server", "Setup", "TooFewClients", "Transcript", "ckks", "degree", "discrete_gaussian",
    "sent_bytes", "simulate",
]  # fmt: skip
