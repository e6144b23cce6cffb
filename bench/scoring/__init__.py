"""Caption scores: BLEU, METEOR, ROUGE-L and CIDEr as pycocoevalcap computes them, without its traps.

`captions` makes text safe, `java` runs the Java programs, `ngrams`, `rouge` and `cider` count, `engine` scores. A
metric that is the mean of a function of one caption and its references is one line in `METRICS`.
"""

from bench.scoring.cider import Frequencies
from bench.scoring.engine import METRICS, Metric, Scorer, Scores

__all__ = ["METRICS", "Frequencies", "Metric", "Scorer", "Scores"]
