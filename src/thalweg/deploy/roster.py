"""Whom a server knows: which clients there are, which have joined, and which can be waited for."""

from collections.abc import Sequence

from .card import Card, misfit, read_card, read_json
from .membership import Refused
from .post import Kind, Letter, Post
from .purse import Spent


class Roster:
    """The clients of a run, as the server of `card` sees them.

    Attributes:
        cards: of all who ever joined.
        met: who is connected; here: of those, who has joined; proved: of those, who has answered since.
        silent: who was too slow, and has not been heard of since. left: who takes part no more → why.
        proofs: what clients with certificates say of their keys for secure sums (`signer`), not believed yet.
    """

    def __init__(self, post: Post, sites: Sequence[str], card: Card):
        self._post, self._sites, self._card, self._present = post, tuple(sites), card, frozenset[str]()
        self.cards: dict[str, Card] = {}
        self.met, self.here = frozenset[str](), frozenset[str]()
        self.proved, self.silent = set[str](), set[str]()
        self.proofs: dict[str, bytes] = {}
        self.left: dict[str, str] = {}
        self._lives, self._joined = dict[str, str](), list[str]()
        self._reborn: tuple[Card, str] | None = None

    def in_order(self) -> list[Card]:
        """The cards of all clients."""
        return [self.cards[site] for site in self._sites]

    def unknown(self) -> list[str]:
        """Clients that have never joined."""
        return [site for site in self._sites if site not in self.cards]

    def joined(self) -> list[str]:
        """Who has joined since this was asked before."""
        found, self._joined = self._joined, []
        return found

    @property
    def able(self) -> frozenset[str]:
        """Who is there and takes part still."""
        return self.here - self.left.keys()

    def check_left(self, need: int) -> None:
        """That as many clients take part still.

        Raises:
            Spent: they do not.
        """
        staying = len(self._sites) - len(self.left)
        if staying < need:
            told = "; ".join(f"{site}: {why}" for site, why in self.left.items())
            raise Spent(f"{staying} of {len(self._sites)} clients take part still, expected {need}; {told}")

    def receive(self, timeout: float, begun: bool) -> Letter | None:
        """The next letter that is not about joining; None when none came, or at once when somebody has left. Who began again
        before its absence was seen has left too, for one call. `begun`: whether rounds are under way.

        Raises:
            Refused: before that, of a client that does not fit. Later the client is refused, and the run goes on.
        """
        if (present := self._post.present()) is not self._present and self._meet(present):
            return None  # who comes back with the next letter was away all the same
        if self._reborn is not None:
            self._join(*self._reborn)
            self._reborn = None
            return None
        letter = self._post.receive(timeout)
        if letter is None:
            return None
        if letter.sender not in self._sites:
            self._post.rejected["unknown site"] += 1
            return None
        self.silent.discard(letter.sender)
        if letter.kind is Kind.REFUSED:
            self.left[letter.sender] = letter.text
            self._post.note("takes part no more", other=letter.sender, reason=letter.text)
            return None
        if letter.kind is not Kind.JOIN:
            return letter
        try:
            told = read_json(letter.body)
            card, life, proof = read_card(told["card"]), str(told["life"]), bytes.fromhex(told.get("proof", ""))
            if card.name != letter.sender:
                raise ValueError(card.name)
        except (ValueError, TypeError, KeyError):  # what JSON or a card cannot be made of
            self._post.rejected["malformed"] += 1
            return None
        if (why := misfit(self._card, card, self.cards.get(card.name))) is None:
            self.proofs[card.name] = proof
            if card.name in self.here and self._lives[card.name] != life:
                self.here, self._reborn = self.here - {card.name}, (card, life)
            else:
                self._join(card, life)
            return None
        self._post.send(card.name, Letter(Kind.REFUSED, body=f"refused this client: {why}".encode()))
        if not begun:
            raise Refused(why)
        return None

    def _meet(self, present: frozenset[str]) -> bool:
        """Somebody may have come, or left; whether a client has that had joined."""
        self._present, met, before = present, present & frozenset(self._sites), self.here
        for site in met - self.met:
            self._post.send(site, Letter(Kind.JOIN))
        self.met = met
        self.here &= met
        self.proved &= met
        return self.here != before

    def _join(self, card: Card, life: str) -> None:
        if self._lives.get(card.name) != life:
            self.proved.discard(card.name)
            self.left.pop(card.name, None)
        self._lives[card.name], self.cards[card.name] = life, card
        if card.name in self._post.present():  # a letter may outlive its sender
            self.here |= {card.name}
            self._joined.append(card.name)
