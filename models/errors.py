"""What a user can get wrong about models: each message says what was given, what was expected, what to do."""

_LONGEST = 600


def one_line(text: str, limit: int = _LONGEST) -> str:
    """Text that may quote a stranger's file, fit to print: control characters escaped, cut to `limit` characters."""
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


class CheckpointError(ValueError):
    """A checkpoint can't be used: unreadable, of an unknown kind, or inconsistent in itself."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class PictureError(ValueError):
    """A picture can't be used: unreadable, truncated, of an unknown kind, or too large."""
