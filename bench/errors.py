"""What a user can get wrong, apart from models and run directories.

Each message says what was given, what was expected, what to do.
"""


class ConfigError(ValueError):
    """Options can't be what the user wants."""


class DataError(ValueError):
    """A data set can't be used."""


class ScoringError(ValueError):
    """Captions can't be scored."""


class JavaError(ScoringError):
    """A Java program is missing, failed, or fell silent."""
