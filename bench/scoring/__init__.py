"""Caption scores: BLEU, METEOR, ROUGE-L and CIDEr as pycocoevalcap computes them, without its traps.

`captions` makes text safe and reads tokens, `java` runs the two Java programs, `cider` computes CIDEr-D,
`engine` scores. A metric that is the mean of a function of one caption and its references is one line in
`METRICS`.
"""

from bench.scoring.engine import METRICS, Metric, Scorer, Scores

__all__ = ["METRICS", "Metric", "Scorer", "Scores"]
