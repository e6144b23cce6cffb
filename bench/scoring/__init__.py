"""Caption scores: BLEU, METEOR, ROUGE-L and CIDEr as pycocoevalcap computes them, without its traps.

`captions` makes text safe and splits it into words, `java` drives Java programs, `meteor` (with `paraphrases`) is one
of them, `ngrams`, `rouge` and `cider` count, `engine` scores. A metric that is the mean of a function of one caption
and its references is one line in `metrics`.
"""

from bench.scoring.cider import Frequencies
from bench.scoring.engine import Scorer
from bench.scoring.metrics import METRICS, Metric, Scores

__all__ = ["METRICS", "Frequencies", "Metric", "Scorer", "Scores"]
