"""What the scorer keeps of references and of captions, prepared so that nothing is done twice."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple, TypeVar

from bench.data.texts import TextsByName
from bench.scoring.cider import CiderD
from bench.scoring.metrics import METRICS
from bench.scoring.ngrams import Ngrams
from bench.scoring.tally import Cut

MEANS = {name: metric.against for name, metric in METRICS.items() if metric.against}
"""Metrics that are means over images: given an image's tokenised references, each makes what scores a caption."""
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class PreparedImage:
    """An image's references, prepared for every metric."""

    def __init__(self, references: Sequence[str]) -> None:
        self.references = references
        self.ngrams = [Ngrams(caption) for caption in references]
        self.means = [against(references) for against in MEANS.values()]


class Recent(dict[_K, _V]):
    """What was found last; what was found before is forgotten when `trim` is called."""

    def __init__(self, most: int) -> None:
        self._most = most

    def trim(self) -> None:
        """Forgets all but the newest."""
        while len(self) > self._most:
            del self[next(iter(self))]


class Tokenised(NamedTuple):
    """References, split into words."""

    texts: TextsByName
    """By image id."""
    cut: Cut
    """Those that were too long."""
    fixed: CiderD | None
    """CIDEr's weights, if they don't come from the scored images."""
