"""What each measure means: one sentence, range, direction and source. Tables, figures and legend share it."""

from typing import NamedTuple


class Measure(NamedTuple):
    """How to read one measure."""

    label: str
    range: str
    higher_is_better: bool | None
    """None if it only describes."""
    source: str
    meaning: str


def arrow(higher_is_better: bool | None) -> str:
    """The direction of a measure, as a sign and in words."""
    return {True: "↑ higher is better", False: "↓ lower is better", None: "describes only"}[higher_is_better]


_SHARE = "0 to 1"
CAPTIONS = {
    "BLEU-4": Measure(
        "BLEU-1 to 4", _SHARE, True, "Papineni et al. 2002",
        "How many of the caption's runs of one to four words occur in the references.",
    ),
    "METEOR": Measure(
        "METEOR", _SHARE, True, "Denkowski & Lavie 2014",
        "Words matched with a reference, counting stems, synonyms and paraphrases, and their order.",
    ),
    "ROUGE-L": Measure(
        "ROUGE-L", _SHARE, True, "Lin 2004", "Length of the longest word sequence shared with a reference.",
    ),
    "CIDEr": Measure(
        "CIDEr", "0 to 10", True, "Vedantam et al. 2015 (its D variant, as in pycocoevalcap)",
        "Runs of words shared with the references, weighted by how telling they are in this data set.",
    ),
    "Exact match": Measure(
        "Exact match", _SHARE, True, "this project",
        "Captions that equal one of their references word for word.",
    ),
    "SPICE": Measure(
        "SPICE", _SHARE, True, "Anderson et al. 2016",
        "Objects, attributes and relations shared with the references, by their scene graphs.",
    ),
    "Hallucinated objects": Measure(
        "Hallucinated objects", _SHARE, False, "after Rohrbach et al. 2018 (CHAIR)",
        "Objects that a caption names although they are not in the picture, of all objects named; and the captions "
        "that name one.",
    ),
    "Copied captions": Measure(
        "Copied captions", _SHARE, None, "this project",
        "Captions that equal a caption of the data set's training split word for word.",
    ),
    "Retrieval recall@1": Measure(
        "Retrieval recall and median rank", _SHARE, True, "Karpathy & Fei-Fei 2015",
        "Images ranked by the model's own probability of a caption: how often the caption's image is among the first "
        "1, 5, 10, and its median rank. Says whether captions tell their images apart.",
    ),
    "Distinct-1": Measure(
        "Distinct-1 and 2", _SHARE, None, "Li et al. 2016",
        "Different words, and pairs of words, of all that were said; falls as more captions are counted.",
    ),
}  # fmt: skip
MEASURES = {
    "pointing": Measure(
        "Pointing", _SHARE, True, "Zhang et al. 2016",
        "How often the brightest cell lies on what the word names; ties count by their share.",
    ),
    "mass": Measure(
        "Mass", _SHARE, True, "Liu et al. 2017 (attention correctness)",
        "Share of the map's positive weight that lies on what the word names.",
    ),
    "lift": Measure(
        "Lift", "from 0", True, "this project",
        "Mass divided by the share of the picture that the region covers; a map that knows nothing has 1.",
    ),
    "rank": Measure(
        "Rank", _SHARE, True, "Arras et al. 2022 (relevance rank accuracy)",
        "With a region of k cells: share of the k brightest cells that lie on it.",
    ),
    "auc": Measure(
        "AUC", _SHARE, True, "Fawcett 2006",
        "Probability that a cell on the region is brighter than one beside it; chance is 0.5.",
    ),
    "cosine": Measure(
        "Cosine", _SHARE, True, "Hedström et al. 2023",
        "Of the angle between the positive parts of two maps.",
    ),
    "root_jsd": Measure(
        "√JSD", _SHARE, False, "Endres & Schindelin 2003",
        "Distance of two maps as distributions: the root of their Jensen-Shannon divergence to base 2.",
    ),
    "top10_iou": Measure(
        "Top-10 % overlap", _SHARE, True, "Krishna et al. 2022",
        "The brightest tenth of the cells of two maps: those in both, as a share of those in either.",
    ),
    "spearman": Measure(
        "Spearman", "−1 to 1", True, "Adebayo et al. 2018",
        "Correlation of the cells' ranks; mostly decided by cells that are all but dark.",
    ),
    "completeness_error": Measure(
        "Completeness error", "from 0", False, "Sundararajan et al. 2017",
        "How far a map's sum misses the score difference it should add up to, as a share of that difference.",
    ),
    "share_now": Measure(
        "Path shares", "0 to 1, together 1", None, "this project",
        "A word's gradient runs through this step's attended context, through earlier steps and through the "
        "initial state; attention shows the first.",
    ),
    "attention_entropy": Measure(
        "Attention entropy", _SHARE, None, "this project",
        "How widely attention spreads, on average over words: 0 is one cell, 1 is all cells alike.",
    ),
    "collapsed_attention": Measure(
        "Collapsed attention", _SHARE, False, "this project",
        "Captions whose maps are the same for every word: no two of them differ by 1 % of their weight.",
    ),
}  # fmt: skip
