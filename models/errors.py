"""What a user can get wrong about models: each message says what was given, what was expected, what to do."""


class CheckpointError(ValueError):
    """A checkpoint can't be used: unreadable, of an unknown kind, or inconsistent in itself."""


class PictureError(ValueError):
    """A picture can't be used: unreadable, truncated, of an unknown kind, or too large."""
