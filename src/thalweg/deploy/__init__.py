"""Out of the simulator: one process per site, over a real network. Posts over Zenoh, and keys, need the extra "net"."""

from . import keys
from .asynchronous import AsynchronousPeer
from .client import Client
from .federation import Plan
from .identity import Identity
from .memory_post import Exchange, MemoryPost
from .peer import Peer
from .post import Kind, Letter, Post
from .server import Server
from .site import Answer, Ledger, Settings
from .zenoh_post import ZenohPost

__all__ = [
    "Answer", "AsynchronousPeer", "Client", "Exchange", "Identity", "Kind", "Ledger", "Letter", "MemoryPost", "Peer", "Plan",
    "Post", "Server", "Settings", "ZenohPost", "keys",
]  # fmt: skip
