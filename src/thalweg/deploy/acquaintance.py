"""How sites without rounds find together: everybody tells everybody its card, once, and whoever has the cards of all begins.

There are no epochs. A site that comes back tells its card again, and hears from each of the others how far they have heard it: from
there on it numbers its messages, so that none is taken for an older one.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from .card import Card, misfit, read_card, read_json
from .membership import Refused, TooFew, logged
from .post import Kind, Letter, Post

# Seconds until a site whose card is missing is greeted again.
AGAIN = 1.0
# Numbers of messages are below this: nobody wakes so often, and whoever says so does not push others' numbers to where they end.
LARGEST = 2**30


class Acquaintance:
    """One site's.

    Attributes:
        cards: name → card of all that are known; seen: name → number of the newest message heard of it.
        next: the least number that this site's next message may have, as far as others have heard.
    """

    def __init__(self, post: Post, sites: Sequence[str], card: Card, wait: float):
        self._post, self._sites, self._card, self._wait = post, tuple(sites), card, wait
        self.cards: dict[str, Card] = {card.name: card}
        self.seen: dict[str, int] = {}
        self.next, self._met, self._told, self._begun = 0, frozenset[str](), 0.0, False

    def restore(self, cards: Sequence[Card]) -> None:
        """The cards that a log holds.

        Raises:
            Refused: this site has other data than it had.
        """
        self.cards, self._begun = logged(self._card, cards), True

    def gather(self) -> tuple[Card, ...]:
        """The cards of all sites, in order, once they are known. Letters about anything else are lost.

        Raises:
            TooFew: they were not known after `wait` seconds.
            Refused: sites do not fit together.
        """
        end = time.monotonic() + self._wait
        while missing := [site for site in self._sites if site not in self.cards]:
            self.greet(again=True)
            if time.monotonic() > end:
                raise TooFew(f"{len(self.cards)} of {len(self._sites)} sites have come, missing: {', '.join(missing)}", missing)
            if (letter := self._post.receive(0.2)) is not None:
                self.hear(letter)
        self._begun = True
        return tuple(self.cards[site] for site in self._sites)

    def greet(self, again: bool = False) -> frozenset[str]:
        """Tell whoever has come who this is; with `again` also those who have not answered for a while. Returns who has come."""
        here = self._post.present() & frozenset(self._sites)
        new, self._met = here - self._met, here
        asked = new
        if again and time.monotonic() > self._told + AGAIN:
            self._told, asked = time.monotonic(), new | (here - self.cards.keys())
        for site in asked:
            self._tell(site, asks=True)
        return new

    def hear(self, letter: Letter) -> None:
        """Take a letter about who there is; others are left alone. One that cannot be read is counted and thrown away.

        Raises:
            Refused: before this site has begun, the sender does not fit, or says that this site does not.
        """
        if letter.sender not in self._sites:
            self._post.rejected["unknown site"] += 1
        elif letter.kind is Kind.REFUSED and not self._begun:
            raise Refused(f"{letter.sender!r} ended the run: {letter.text}")
        elif letter.kind is Kind.JOIN:
            try:
                card, seen, asks = _read(letter)
            except (ValueError, TypeError, KeyError):
                self._post.rejected["malformed"] += 1
                return
            self._welcome(card, seen, asks)

    def _welcome(self, card: Card, seen: int, asks: bool) -> None:
        why = misfit(self._card, card, self.cards.get(card.name))
        if why is not None:
            self._post.send(card.name, Letter(Kind.REFUSED, body=why.encode()))
            if not self._begun:
                raise Refused(why)
            return
        self.cards[card.name] = card
        self.next = max(self.next, seen + 1)
        if asks:
            self._tell(card.name, asks=False)

    def _tell(self, site: str, asks: bool) -> None:
        told = {"card": dataclasses.asdict(self._card), "seen": self.seen.get(site, -1), "asks": asks}
        self._post.send(site, Letter(Kind.JOIN, body=json.dumps(told).encode()))


def _read(letter: Letter) -> tuple[Card, int, bool]:
    """(the sender's card, number of the newest message that it has heard from here, whether it wants an answer).

    Raises:
        ValueError, TypeError, KeyError: the letter says something else.
    """
    told: Any = read_json(letter.body)
    card, seen, asks = read_card(told["card"]), told["seen"], told["asks"]
    whole = isinstance(seen, int) and not isinstance(seen, bool) and -1 <= seen < LARGEST
    if card.name != letter.sender or not whole or not isinstance(asks, bool):
        raise ValueError(told)
    return card, seen, asks
