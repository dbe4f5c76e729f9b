"""Who takes part: sites agree on an epoch, its members and its first round.

The leader is the first site, in the order of the experiment, that is there. It proposes members (`VIEW`), waits until each has
answered with the round it is at (`READY`), and lets them begin together at the latest of those rounds (`START`). The first epoch
has everybody. Whoever is lost, or comes back, brings a new one, in which everybody restarts from what it has: what an algorithm
conserves is conserved among the members of one epoch, all of whom know each other.

Epochs are numbered. Where a network was split, the parts have epochs of their own; the higher number wins when they meet.
"""

import dataclasses
import json
import secrets
import time
from collections.abc import Sequence

from .card import Card, misfit, read_card, read_cards, read_json
from .post import Kind, Letter, Post

# Seconds until a proposal that was not answered is made again.
AGAIN = 1.0


class TooFew(RuntimeError):
    """Fewer sites than the quorum were there for as long as one waits for them; `missing` are those who were not."""

    def __init__(self, message: str, missing: Sequence[str]):
        super().__init__(message)
        self.missing = tuple(missing)


class Refused(ValueError):
    """Sites do not fit together."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """`members` go on together from round `round`; `cards` are those of all sites, in their order."""

    number: int
    round: int
    members: frozenset[str]
    cards: tuple[Card, ...]


def logged(own: Card, cards: Sequence[Card]) -> dict[str, Card]:
    """Name → card of those that a site's log holds.

    Raises:
        Refused: this site has other data than it had.
    """
    known = {card.name: card for card in cards}
    if known.get(own.name) != own:
        raise Refused(
            f"site {own.name!r}: its log is of another experiment or of other data: got {own}, the log has {known.get(own.name)}; "
            "give it back its data, or choose a new folder on every site"
        )
    return known


class Membership:
    """One site's part in the agreement.

    Attributes:
        epoch: the number of the newest epoch that this site takes part in, −1 before the first.
        members: who takes part in it; round: this site's.
    """

    def __init__(self, post: Post, sites: Sequence[str], card: Card, *, quorum: int, timeout: float, wait: float):
        self._post, self._sites, self._quorum, self._timeout, self._wait = post, tuple(sites), quorum, timeout, wait
        self.epoch, self.members, self.round = -1, frozenset[str](), 0
        self.cards: dict[str, Card] = {card.name: card}
        self._card, self._highest, self._met = card, -1, frozenset[str]()
        self._sees: dict[str, frozenset[str]] = {}
        self._view: tuple[int, str, frozenset[str]] | None = None  # (number, leader, members), not begun yet
        self._ready: dict[str, int] = {}
        self._again = self._proposed = self._told = 0.0
        # One process of a site has one life; what lives others were seen to have, and whether one of them is another than it was.
        self._life, self._lives, self._reborn = secrets.token_hex(8), dict[str, str](), False
        self._silent: set[str] = set()  # there, but did not answer the last proposal

    def restore(self, epoch: int, cards: Sequence[Card]) -> None:
        """Go on from a log: epochs are numbered on from `epoch`, and sites are those of `cards`.

        Raises:
            Refused: this site has other data than it had.
        """
        known = logged(self._card, cards)
        self.cards, self._highest = known, max(self._highest, epoch)

    @property
    def leader(self) -> str:
        """The first site that is there."""
        here = self._post.present() | {self._card.name}
        return next(site for site in self._sites if site in here)

    def disturbed(self) -> bool:
        """Whether the epoch is over: a member is gone or was, a site has come that may join, or somebody proposes another one."""
        self._greet()
        here = self._post.present() | {self._card.name}
        gone = self._reborn or not self.members <= here
        return self._view is not None or gone or (self._leads() and self._candidates() != self.members)

    @property
    def proposed(self) -> bool:
        """Whether another epoch is proposed, of which this site is a part."""
        return self._view is not None

    def hear(self, letter: Letter) -> Epoch | None:
        """Take a letter about membership; the epoch that it begins. One that cannot be read, or is not its sender's to write, is
        counted and thrown away.

        Raises:
            Refused: the sender does not fit, or says that this site does not.
        """
        try:
            return self._heard(letter)
        except Refused:
            raise
        except (ValueError, TypeError, KeyError):  # what JSON, a card or names cannot be made of
            self._post.rejected["malformed"] += 1
            return None

    def _heard(self, letter: Letter) -> Epoch | None:
        if letter.sender not in self._sites:
            self._post.rejected["unknown site"] += 1
            return None
        self._silent.discard(letter.sender)
        if letter.kind is Kind.JOIN:
            told = read_json(letter.body)
            own, *others = map(read_card, told["cards"])
            if own.name != letter.sender or not isinstance(told["life"], str):
                raise ValueError(told)
            self._highest = max(self._highest, letter.epoch - 1)  # of an epoch n, n + 1 is written: 0 is before the first
            if self._lives.setdefault(own.name, told["life"]) != told["life"]:
                # It died and came back before its absence was seen: it knows nothing of this epoch, and nobody has greeted it.
                self._lives[own.name], self._reborn, self._met = told["life"], True, self._met - {own.name}
            self._welcome(own)
            self.cards |= {card.name: card for card in others if card.name in self._sites and card.name not in self.cards}
        elif letter.kind is Kind.SEES:
            self._sees[letter.sender] = self._names(letter)
        elif letter.kind is Kind.VIEW:
            self._join_view(letter)
        elif letter.kind is Kind.READY and self._view is not None and letter.epoch == self._view[0]:
            self._ready[letter.sender] = letter.round
            self._sees[letter.sender] = self._names(letter)
        elif letter.kind is Kind.START and self._view is not None and self._view[:2] == (letter.epoch, letter.sender):
            self.cards = {card.name: card for card in read_cards(read_json(letter.body), self._sites)}
            return self._begun(letter.round)
        elif letter.kind is Kind.REFUSED and self.epoch < 0:
            raise Refused(f"{letter.sender!r} ended the run: {letter.text}")
        return None

    def gather(self, k: int, keep) -> Epoch:
        """Agree on the next epoch; this site is at round k. Letters that are not about membership go to `keep`.

        Raises:
            TooFew: fewer than the quorum were there for `wait` seconds (in the first epoch: not all).
            Refused: sites do not fit together.
        """
        patience, self.round = _Patience(self._wait), k
        while True:
            self._greet()
            if self._leads() and (begun := self._lead(k)) is not None:
                return begun
            here = self._post.present() | {self._card.name}
            enough = len(here & set(self._sites)) >= (self._quorum if self.epoch >= 0 or self._complete() else len(self._sites))
            if patience.spent(enough):
                missing = [site for site in self._sites if site not in here]
                raise TooFew(f"{len(here)} of {len(self._sites)} sites are there, missing: {', '.join(missing)}", missing)
            if time.monotonic() > self._told + AGAIN:
                self.tell()
            letter = self._post.receive(0.2)
            if letter is None:
                continue
            if letter.kind in (Kind.MESSAGE, Kind.AGAIN, Kind.DONE):
                keep(letter)
            elif (begun := self.hear(letter)) is not None:
                return begun

    def tell(self) -> None:
        """Tell the leader whom this site sees, and that it is there: a leader that once waited for it in vain takes it back."""
        self._told = time.monotonic()
        if not self._leads():
            self._post.send(self.leader, Letter(Kind.SEES, body=self._seen()))

    def _leads(self) -> bool:
        return self.leader == self._card.name

    def _complete(self) -> bool:
        return all(site in self.cards for site in self._sites)

    def _greet(self) -> None:
        """Tell whoever is new who this is, and the leader whom this site sees."""
        here = self._post.present()
        if here == self._met:
            return
        cards = [self._card, *(card for site, card in self.cards.items() if site != self._card.name)]
        body = json.dumps({"life": self._life, "cards": [dataclasses.asdict(card) for card in cards]}).encode()
        for site in here - self._met:
            self._post.send(site, Letter(Kind.JOIN, epoch=self.epoch + 1, body=body))
        for site in self._met - here:
            self._sees.pop(site, None)
        self._met = here
        if self._view is not None and self._view[1] not in here | {self._card.name}:
            self._view = None  # its leader is gone
        self.tell()

    def _welcome(self, card: Card) -> None:
        why = misfit(self._card, card, self.cards.get(card.name))
        if why is None:
            self.cards[card.name] = card
        else:
            self._refuse(card.name, why)

    def _refuse(self, site: str, why: str) -> None:
        """Before the first epoch nobody begins; a run that is on its way goes on without the newcomer."""
        self._post.send(site, Letter(Kind.REFUSED, body=why.encode()))
        if self.epoch < 0:
            raise Refused(why)

    def _candidates(self) -> frozenset[str]:
        """Who can take part: in the order of the sites, whoever is there, is known, and sees all those before."""
        here, chosen = self._post.present() | {self._card.name}, set[str]()
        for site in self._sites:
            seen = self._sees.get(site)
            if site in here - self._silent and site in self.cards and (seen is None or chosen - {site} <= seen):
                chosen.add(site)
        return frozenset(chosen)

    def _lead(self, k: int) -> Epoch | None:
        """As the leader: propose members, and begin once all are ready."""
        wanted = self._candidates()
        if not self._complete() or (self.epoch < 0 and self._highest < 0 and wanted != frozenset(self._sites)):
            return None
        if len(wanted) < self._quorum:
            return None
        old = self._view is None or self._view[1:] != (self._card.name, wanted) or self._view[0] < self._highest
        if old:
            self._view = (max(self._highest, self.epoch) + 1, self._card.name, wanted)
            self._highest, self._ready, self._proposed = self._view[0], {self._card.name: k}, time.monotonic()
        if old or time.monotonic() > self._again:  # whoever was about to leave another epoch may have missed it
            self._again = time.monotonic() + AGAIN
            body = json.dumps(sorted(wanted)).encode()
            for site in wanted - self._ready.keys():
                self._post.send(site, Letter(Kind.VIEW, epoch=self._view[0], body=body))
        if not wanted <= self._ready.keys():
            if time.monotonic() > self._proposed + self._timeout:
                self._silent |= wanted - self._ready.keys()
            return None
        first = max(self._ready[site] for site in wanted)
        body = json.dumps([dataclasses.asdict(self.cards[site]) for site in self._sites]).encode()
        for site in wanted - {self._card.name}:
            self._post.send(site, Letter(Kind.START, epoch=self._view[0], round=first, body=body))
        return self._begun(first)

    def _join_view(self, letter: Letter) -> None:
        members = self._names(letter)
        better = self._view is None or (letter.epoch, -self._place(letter.sender)) > (
            self._view[0],
            -self._place(self._view[1]),
        )
        if letter.epoch <= self.epoch and members:
            # Of a part of the network that was split off: whoever leads it is to know how far epochs have come here.
            self._post.send(letter.sender, Letter(Kind.VIEW, epoch=self.epoch, body=b"[]"))
            return
        self._highest = max(self._highest, letter.epoch)
        if letter.epoch <= self.epoch or not better or self._card.name not in members:
            return
        self._view = (letter.epoch, letter.sender, members)
        self._post.send(letter.sender, Letter(Kind.READY, epoch=letter.epoch, round=self.round, body=self._seen()))

    def _begun(self, first: int) -> Epoch:
        assert self._view is not None
        self.epoch, _, self.members = self._view
        self._view, self._ready, self._reborn = None, {}, False
        return Epoch(self.epoch, first, self.members, tuple(self.cards[site] for site in self._sites))

    def _names(self, letter: Letter) -> frozenset[str]:
        """Sites that a letter names."""
        told = read_json(letter.body)
        if not isinstance(told, list) or not frozenset(told) <= frozenset(self._sites):
            raise ValueError(told)
        return frozenset(told)

    def _seen(self) -> bytes:
        return json.dumps(sorted(self._post.present())).encode()

    def _place(self, site: str) -> int:
        return self._sites.index(site)


class _Patience:
    """Runs out after so many seconds in a row without enough."""

    def __init__(self, seconds: float):
        self._seconds, self._since = seconds, time.monotonic()

    def spent(self, enough: bool) -> bool:
        if enough:
            self._since = time.monotonic()
        return time.monotonic() - self._since > self._seconds
