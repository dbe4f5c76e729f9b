"""What ends the protocol, or one message of it."""


class ProtocolError(ValueError):
    """A message that is wrong, forged, replayed or too late. It was refused and has changed nothing.

    Attributes:
        client: whom it came from, or whom it is about; None where it is the server's.
    """

    def __init__(self, client: int | None, said: str):
        self.client = client
        super().__init__(f"secure sum, {'server' if client is None else f'client {client}'}: {said}")


class TooFewClients(RuntimeError):
    """Fewer clients than the threshold are left: nothing can be revealed, and the round is void.

    Attributes:
        missing: who was waited for in vain.
    """

    def __init__(self, step: str, left: int, needed: int, missing: tuple[int, ...]):
        self.missing = missing
        who = ", ".join(map(str, missing[:12])) + (f" and {len(missing) - 12} more" if len(missing) > 12 else "")
        super().__init__(
            f"secure sum, {step}: got {left} clients, expected at least {needed}; missing: {who or 'nobody else'}. "
            "Wait longer, or begin another round with a lower threshold"
        )
