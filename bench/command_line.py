"""The command line that was given, and the one that goes on from where it stopped."""

import shlex
import sys


def command_line() -> str:
    """What this process was asked to do, as a shell takes it."""
    return shlex.join(["gazebench", *sys.argv[1:]])


def resuming(command: str) -> str:
    """The command that goes on with what another one began: without --fresh, however short, which would start over."""
    try:
        words = shlex.split(command)
    except ValueError:  # a record may hold anything
        return command
    return shlex.join(word for word in words if not (word.startswith("--f") and "--fresh".startswith(word)))
