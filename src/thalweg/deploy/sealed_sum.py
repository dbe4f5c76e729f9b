"""Secure sums between sites: the protocol of `thalweg.message.secure`, letter by letter.

    server → client    MESSAGE    the broadcast, and behind it an invitation: who is in the sum
    client → server    MESSAGE    its keys, once its work is done; nothing if it takes no part
    to and fro         SUM        the protocol's messages; nothing from a client that takes no part any more

A client works before it says anything, so that those who are slow, or have no numbers to give, drop out while it costs nothing.

Every process makes its secrets for a sum when it is invited, and forgets them with it. Whoever starts again is in the next sum.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from thalweg.cohort import Poisson
from thalweg.engine.server import ServerProgram
from thalweg.message import secure
from thalweg.message.payload import payload_bytes
from thalweg.message.secure import ProtocolError, Setup, TooFewClients
from thalweg.message.secure.setup import SESSION_BYTES
from thalweg.message.secure_sum import SecureSum

from .desk import Desk
from .invitation import Invitation
from .post import Letter
from .rounds import ClientRounds, Specs
from .signer import NOBODY, Signer, vouched


class Terms(NamedTuple):
    """What all sites know of a run's secure sums.

    Attributes:
        aggregate: of the cohort. lengths: by phase, numbers of a message.
        fixed: whether the cohort has a client in every slot.
        sites: the clients, in their order. run: its hash. signed: whether clients sign, by keys that certificates vouch for.
    """

    aggregate: SecureSum
    lengths: Sequence[int]
    fixed: bool
    sites: tuple[str, ...]
    run: str
    signed: bool

    @classmethod
    def of(
        cls, program: ServerProgram, specs: Sequence[Specs], sites: tuple[str, ...], run: str, signed: bool
    ) -> "Terms | None":
        """Those of a run; None where the server sees its clients' messages.

        Raises:
            ValueError: there can be no such sums.
        """
        if program.aggregate is None or not program.aggregate.sealed:
            return None
        lengths = [sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(one.sent)) for one in specs]
        terms = cls(program.aggregate, lengths, not isinstance(program.cohort, Poisson), sites, run, signed)
        terms.check()
        return terms

    def check(self) -> None:
        """Whether such sums can be.

        Raises:
            ValueError: the threshold is too low for a server that may lie, or a number is out of its range.
        """
        clients = self.aggregate.ring.clients
        if self.signed and 3 * self.aggregate.threshold(clients) <= 2 * clients:
            raise ValueError(
                f"secure_sum: got dropouts={self.aggregate.dropouts} of {clients} clients with certificates, expected at most "
                f"{(clients - 1) // 3}, less than a third: else a server that lies could be told two sums; leave dropouts= out"
            )
        self.aggregate.setup(bytes(SESSION_BYTES), clients, 1)  # raises for a degree that is none

    def nothing(self, index: int) -> np.ndarray:
        """The sum of nobody, in a phase."""
        aggregate = self.aggregate
        return np.zeros(aggregate.length(self.lengths[index]), f"<u{aggregate.ring.bits // 8}")

    def setup(self, invitation: Invitation, where: tuple[int, int, int], common: bytes) -> Setup:
        """The sum that it invites to.

        Raises:
            ValueError: too few are in it.
        """
        session = invitation.session(self.run, where, common)
        keys = invitation.keys if self.signed else None
        return self.aggregate.setup(session, len(invitation.members), self.lengths[where[2]], keys)


class Sums:
    """The server's side of a run's sums. `authority`: whose certificates to believe, None without."""

    def __init__(self, desk: Desk, terms: Terms, authority: Any):
        self._desk, self._terms, self._authority = desk, terms, authority
        self._keys: dict[bytes, bytes] = {}  # by the proof that is believed
        # The proofs that each client's process has been shown, by its own.
        self._shown: dict[bytes, set[bytes]] = {}

    def begin(self, slots: Sequence[int], common: bytes, k: int, index: int) -> "Sum":
        """The sum of phase `index` of round k, of the clients at these places, −1 for none.

        Raises:
            TooFewClients: there can be no sum of so few.
        """
        members, sites, signed = [place for place in slots if place >= 0], self._terms.sites, self._terms.signed
        proofs = {place: proof for place in members if signed and (proof := self._believed(sites[place]))}
        keys = tuple(self._keys[proofs[place]] if place in proofs else NOBODY for place in members) if signed else ()
        everybody = Invitation(os.urandom(SESSION_BYTES), tuple(slots), keys)
        try:
            setup = self._terms.setup(everybody, (self._desk.epoch, k, index), common)
        except ValueError:
            needed = max(2, self._terms.aggregate.threshold(len(members)))
            raise TooFewClients("before it began", len(members), needed, ()) from None
        invitations = {}
        for place in members:
            shown = self._shown.get(proofs.get(place, b""), ())
            fresh = {other: proof for other, proof in proofs.items() if proof not in shown}
            invitations[sites[place]] = everybody._replace(proofs=fresh).pack()

        def heard(site: str) -> None:  # it has read its invitation
            if proof := proofs.get(sites.index(site)):
                self._shown.setdefault(proof, set()).update(proofs.values())

        return Sum(self._desk, setup, [sites[place] for place in members], invitations, heard)

    def nothing(self, index: int) -> np.ndarray:
        """The sum of nobody, in a phase."""
        return self._terms.nothing(index)

    def _believed(self, site: str) -> bytes:
        """What shows whose key it is that a client signs with; empty where nothing does."""
        proof = self._desk.roster.proofs.get(site, b"")
        if proof and proof not in self._keys:
            try:
                self._keys[proof] = vouched(self._authority, self._terms.run, site, proof)
            except ValueError as error:
                self._desk.reject("bad certificate")
                self._desk.post.note("key refused", other=site, reason=str(error))
                proof = self._desk.roster.proofs[site] = b""
        return proof


class Sum:
    """The server's side of one sum. `heard` is called with a client that has answered.

    Attributes:
        invitations: site → what stands behind the broadcast to it.
        need: the least number of clients that it can be had of.
        total: the sum `[length]`, after the last step; survivors: the sites whose vectors are in it.
    """

    def __init__(self, desk: Desk, setup: Setup, sites: list[str], invitations: dict[str, bytes], heard: Callable[[str], None]):
        self.invitations, self.need = invitations, setup.threshold
        self._desk, self._sites, self._heard, self._server = desk, sites, heard, secure.Server(setup)
        self._begins = True

    @property
    def total(self) -> np.ndarray:
        return self._server.total

    @property
    def survivors(self) -> list[str]:
        return [self._sites[i] for i in sorted(self._server.survivors)]

    def take(self, letter: Letter) -> bool:
        """Whether a client's letter is its answer to this step; others are counted. One that says nothing, or the wrong thing to an
        invitation, is out; later the wrong thing may be an answer that was sent twice."""
        site = letter.sender
        if not letter.body:
            self._desk.reject("took no part")
            return True
        try:
            self._server.receive(self._sites.index(site), bytes(letter.body))
        except ProtocolError:
            self._desk.reject("malformed")
            return self._begins
        self._heard(site)
        return True

    def advance(self) -> dict[str, bytes]:
        """Go on with those who have answered: site → the next message to it, nothing after the last.

        Raises:
            TooFewClients: too few are left. ProtocolError: somebody lied, so that masks cannot be taken off.
        """
        self._begins = False
        return {self._sites[i]: message for i, message in self._server.advance().items()}


class Declined(Exception):
    """An invitation that a client does not trust."""


class Parts:
    """A client's side of a run's sums: its part in the present one.

    Args:
        place: the client's. signer: its key, None without certificates; authority: whose certificates to believe.
        exact: whether noise is drawn here, from the operating system; else it is in what the client computes.

    Attributes:
        key: of the present sum; None where this client has no part in one.
    """

    def __init__(self, terms: Terms, place: int, signer: Signer | None, authority: Any, exact: bool):
        self._terms, self._place, self._signer, self._authority = terms, place, signer, authority
        self._exact = exact and terms.aggregate.clip is not None
        self._vouched: set[tuple[int, bytes]] = set()  # (place, key)
        self.key: tuple[int, int, int] | None = None
        self._part: Part | None = None

    def begin(
        self, rounds: ClientRounds, record: Any, body: np.ndarray, key: tuple[int, int, int], invitation: bytes
    ) -> tuple[Any, bytes, Any]:
        """(record, the first message, loss) in the sum of `key`, (epoch, round, phase), once its work is done. There is no
        message if what came of the work is not a number: then the sum is had without this client.

        Raises:
            Declined: it does not trust the invitation, and has done nothing.
        """
        self.key = self._part = None
        common = body[: payload_bytes(rounds.specs[key[2]].down[0])].tobytes()
        try:
            client, slot = self._client(invitation, key, common)
        except ValueError as error:
            raise Declined(str(error)) from None
        setup, (_, k, index) = client.setup, key
        record, element, finite, loss = rounds.seal(record, body, k, index, slot, setup.clients)
        if not finite:
            return record, b"", loss
        self.key, self._part = key, Part(client, self._hidden(np.asarray(element).astype(setup.dtype), setup.threshold))
        return record, self._part.keys, loss

    def asked(self, message: Any) -> bool:
        """Whether this was the last message of the sum's server."""
        return self._part is not None and self._part.heard == message

    def answer(self, message: Any) -> bytes:
        """What follows from the server's next message; nothing if that is wrong, and for ever after.

        Raises:
            ProtocolError: it is wrong, for the first time.
        """
        return self._part.answer(bytes(message))

    def _client(self, text: bytes, where: tuple[int, int, int], common: bytes) -> tuple[secure.Client, int]:
        """(this client in the sum that it is invited to, its slot in the cohort).

        Raises:
            ValueError: it is not a sum to trust.
        """
        terms = self._terms
        invitation = Invitation.read(text, terms.aggregate.ring.clients, len(terms.sites), terms.signed)
        members = invitation.members
        if self._place not in members or (terms.fixed and len(members) != len(invitation.slots)):
            raise ValueError(f"got a sum of clients {members}, expected another cohort, with client {self._place}")
        for place, proof in invitation.proofs.items():
            self._vouched.add((place, vouched(self._authority, terms.run, terms.sites[place], proof)))
        for place, key in zip(members, invitation.keys, strict=True) if terms.signed else ():
            if key != NOBODY and (place, key) not in self._vouched:
                raise ValueError(f"got a key for {terms.sites[place]!r} that no certificate vouches for")
        identity = None if self._signer is None else self._signer.key
        client = secure.Client(terms.setup(invitation, where, common), members.index(self._place), identity=identity)
        return client, invitation.slots.index(self._place)

    def _hidden(self, element: np.ndarray, survivors: int) -> np.ndarray:
        """With this client's share of the noise, of so many that make it whole."""
        if not self._exact:
            return element
        share = math.ceil(float(self._terms.aggregate.variance) / survivors)
        return element + secure.discrete_gaussian(share, len(element)).astype(element.dtype)


class Part:
    """A client's part in one sum: it answers every step once, and the same message with the same bytes.

    Attributes:
        keys: its first message; heard: the last one that it was sent.
    """

    def __init__(self, client: secure.Client, vector: np.ndarray):
        steps = [client.share, lambda inbox: client.mask(inbox, vector), client.unmask]
        self._steps = steps if client.setup.identities is None else [*steps[:2], client.attest, client.unmask]
        self.keys, self.heard, self._said = client.advertise(), b"", b""

    def answer(self, message: bytes) -> bytes:
        """As `Parts.answer`."""
        if message == self.heard:
            return self._said
        steps, self._steps = self._steps, []
        self.heard, self._said = message, b""
        if steps:
            self._said, self._steps = steps[0](message), steps[1:]
        return self._said
