"""How many pictures may be unreadable before a run is not worth going on with."""

from collections.abc import Sequence

from bench.errors import DataError
from reports.records import Failure


def check_failures(failures: Sequence[Failure], *, expected: int, most: int | float | None) -> None:
    """Ends a run of which too many pictures can't be read; what it holds stays, and a higher limit goes on.

    Args:
        failures: those of the run so far; a picture may be named more than once.
        expected: pictures of the whole run.
        most: how many may fail (`int`), or which share of all (`float`, below 1); None for any number.

    Raises:
        DataError: if there are more.
    """
    if most is None:
        return
    failed = len({failure.image_id for failure in failures})
    allowed = int(most * expected) if isinstance(most, float) else most
    if failed > allowed:
        raise DataError(
            f"{failed:,} of {expected:,} pictures can't be read, and --max-failures {most} allows {allowed:,}; the "
            f"first: {failures[0].reason}; go on from here with a higher --max-failures, or mend the pictures and "
            "start over with --fresh"
        )
