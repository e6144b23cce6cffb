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
CAPTION_METRICS = ("CIDEr", "BLEU-4", "METEOR", "ROUGE-L", "SPICE")
"""Metrics of single captions, the one to sort by first."""

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
_BOTH = "−1 to 1"
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
    "topm_iou": Measure(
        "Top-m overlap", _SHARE, True, "after Theiner et al. 2021",
        "With a region of m cells: the m brightest cells and the region, their intersection as a share of their union.",
    ),
    "inside_outside": Measure(
        "Inside to outside", _SHARE, True, "after Selvaraju et al. 2017",
        "Mean brightness on the region, as a share of this mean and the mean beside it; an even map has 0.5.",
    ),
    "deletion": Measure(
        "Deletion", _SHARE, False, "Petsiuk et al. 2018",
        "The word's probability, averaged while the map's brightest places are taken away first; falls fast where the "
        "map is right. The true place need not be the best here.",
    ),
    "insertion": Measure(
        "Insertion", _SHARE, True, "Petsiuk et al. 2018",
        "The word's probability, averaged while the brightest places are put back first into a picture without any.",
    ),
    "abpc": Measure(
        "ABPC", _BOTH, True, "Samek et al. 2017",
        "Area between the two curves of taking away: the darkest places first less the brightest first. What taking "
        "away does to any picture is in both and cancels out.",
    ),
    "comprehensiveness": Measure(
        "Comprehensiveness", _BOTH, True, "DeYoung et al. 2020",
        "What the word's probability loses without the brightest tenth of the cells.",
    ),
    "sufficiency": Measure(
        "Sufficiency", _BOTH, False, "DeYoung et al. 2020",
        "What the word's probability loses when only the brightest tenth of the cells is left.",
    ),
    "infidelity": Measure(
        "Infidelity", "from 0", False, "Yeh et al. 2019",
        "Squared miss when the map foretells what random cells put in place of others do to the word, in nats², at the "
        "map's best scale. It can fail to tell a gradient from noise.",
    ),
    "max_sensitivity": Measure(
        "Max-sensitivity", "from 0", False, "Yeh et al. 2019",
        "Largest relative change of the map under a tiny change of the annotation vectors.",
    ),
    "on_things": Measure(
        "On any thing", _SHARE, None, "this project",
        "Share of the map that lies on any thing that the caption's words speak of. Function words speak of none, and "
        "are the control for words that do.",
    ),
    "beyond_shifts": Measure(
        "Beyond shifts", _SHARE, True, "this project",
        "Share of words whose map agrees with attention better than with 95 % of attention's shifts around the "
        "picture's edges. Chance is 0.05 to 0.09, more where maps prefer the same part of pictures; not said of grids "
        "with fewer than 20 cells.",
    ),
    "disappeared": Measure(
        "Word gone", _SHARE, True, "after Sun et al. 2022",
        "How often the word is missing from the caption that is made anew without the brightest tenth of the cells.",
    ),
    "sun2022_disappeared": Measure(
        "Word gone (2022 protocol)", _SHARE, True, "Sun et al. 2022, image ablation",
        "The same with that paper's own settings: the 20 brightest of the picture's patches, beam search again.",
    ),
    "sun2022_drop": Measure(
        "Probability lost (2022 protocol)", _BOTH, True, "Sun et al. 2022, image ablation",
        "What the word's probability loses there if it has not gone, the words before it being kept.",
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
    "pearson": Measure(
        "Pearson", _BOTH, True, "Bylinskii et al. 2019",
        "Correlation of the cells' values; a few bright cells can decide it.",
    ),
    "spearman": Measure(
        "Spearman", _BOTH, True, "Adebayo et al. 2018",
        "Correlation of the cells' ranks; mostly decided by cells that are all but dark.",
    ),
    "completeness_error": Measure(
        "Completeness error", "from 0", False, "Sundararajan et al. 2017",
        "How far a map's sum misses the score difference it should add up to, as a share of that difference.",
    ),
    "share_now": Measure(
        "This step’s attention", _SHARE, None, "this project",
        "Share of a word's gradient that runs through the context attended to while the word is said: all that this "
        "step's attention map can show.",
    ),
    "share_past": Measure(
        "Earlier steps", _SHARE, None, "this project",
        "Share of the gradient that runs through the contexts of earlier words.",
    ),
    "share_init": Measure(
        "Initial state", _SHARE, None, "this project",
        "Share of the gradient that runs through the decoder's initial state. The three shares sum to 1.",
    ),
    "path_sum_error": Measure(
        "Path sum error", "from 0", False, "this project",
        "How far the gradients of the three paths miss the full gradient, as a share of it: rounding alone is 1e-6.",
    ),
    "permute_drop": Measure(
        "Shuffled", _BOTH, None, "Jain & Wallace 2019",
        "What the word's probability loses when this step's attention weights are shuffled over the cells.",
    ),
    "uniform_drop": Measure(
        "Even", _BOTH, None, "Wiegreffe & Pinter 2019",
        "What it loses when attention weighs all cells alike.",
    ),
    "other_object_drop": Measure(
        "On the other thing", _BOTH, None, "this project",
        "What it loses when attention is put on another thing of the picture that the word does not name.",
    ),
    "adversarial_drop": Measure(
        "Adversarial", _BOTH, None, "Jain & Wallace 2019",
        "What it loses under the attention that differs most while the distribution over words stays nearly the same.",
    ),
    "erase_top_drop": Measure(
        "Top cell erased", _BOTH, None, "Serrano & Smith 2019",
        "What it loses when attention's brightest cell gets no weight; to be read beside a random cell.",
    ),
    "erase_random_drop": Measure(
        "Random cell erased", _BOTH, None, "Serrano & Smith 2019",
        "What it loses when a cell drawn at random gets no weight.",
    ),
    "permute_tvd": Measure(
        "Shuffled: shift", _SHARE, None, "Jain & Wallace 2019",
        "Total variation distance between the distributions over words with attention as it is and shuffled.",
    ),
    "uniform_tvd": Measure(
        "Even: shift", _SHARE, None, "Jain & Wallace 2019", "The same for even attention.",
    ),
    "other_object_tvd": Measure(
        "On the other thing: shift", _SHARE, None, "Jain & Wallace 2019", "The same for attention on another thing.",
    ),
    "erase_top_tvd": Measure(
        "Top cell erased: shift", _SHARE, None, "Serrano & Smith 2019", "The same without the cell of highest weight.",
    ),
    "erase_random_tvd": Measure(
        "Other cell erased: shift", _SHARE, None, "Serrano & Smith 2019",
        "The same without another cell: the mean over all of them.",
    ),
    "adversarial_tvd": Measure(
        "Adversarial: shift", _SHARE, None, "Jain & Wallace 2019",
        "The same for adversarial attention: small by design.",
    ),
    "adversarial_jsd": Measure(
        "Adversarial: distance", _SHARE, None, "Jain & Wallace 2019",
        "How far attention could move while words hardly change, as Jensen-Shannon divergence; large values say that "
        "another map would explain the word as well.",
    ),
    "gate": Measure(
        "Gate β", _SHARE, None, "Xu et al. 2015",
        "Mean of the gate on what is attended to: near 0 the model hardly looks while it says the word.",
    ),
    "attention_entropy": Measure(
        "Attention entropy", _SHARE, None, "this project",
        "How widely attention spreads, on average over words: 0 is one cell, 1 is all cells alike.",
    ),
    "collapsed_attention": Measure(
        "Collapsed attention", _SHARE, False, "this project",
        "Captions whose maps are the same for every word: no two of them differ by 1 % of their weight.",
    ),
    "corrected": Measure(
        "Corrected for chance", "to 1", True, "after Cohen 1960",
        "The way from chance to the best possible that a measure covers: (found − chance) / (best − chance).",
    ),
    "randomised": Measure(
        "Similarity after randomisation", _BOTH, False, "Adebayo et al. 2018",
        "Of a method's maps of the trained model and of the model with random weights; a map that stays as it is does "
        "not show what was learnt. It can veto a method and says nothing of which is best.",
    ),
    "entropy_rise": Measure(
        "Entropy rise", "from −1", None, "Hedström et al. 2024 (eMPRT)",
        "By what share the entropy of a map's values rises when all weights are made random. Only its sign says much: "
        "of a map with a single peak it rises many times over.",
    ),
    "effect": Measure(
        "Effect size", _BOTH, None, "Kerby 2014 (matched-pairs rank-biserial)",
        "Images in which the method is above attention less those in which it is below, weighted by rank of the "
        "difference, as a share of all.",
    ),
}  # fmt: skip
OPERATORS = {
    "cells": Measure(
        "cells", "", None, "this project",
        "Taken away by replacing annotation vectors with their mean over the data set; the encoder does not run again.",
    ),
    "blur": Measure("blur", "", None, "Petsiuk et al. 2018", "Taken away by blurring the picture there."),
    "grey": Measure("grey", "", None, "Samek et al. 2017", "Taken away by painting the data's mean colour there."),
    "road": Measure(
        "ROAD", "", None, "Rong et al. 2022", "Taken away by guessing the pixels there from those around, with noise.",
    ),
}  # fmt: skip
"""How what a map marks is taken away: the endings of column names."""


def measure_of(column: str) -> Measure:
    """How to read a column: `deletion_blur` is the measure `deletion` with the operator `blur`."""
    name, _, operator = column.rpartition("_")
    if column in MEASURES or operator not in OPERATORS:
        return MEASURES[column]
    found = MEASURES[name]
    return found._replace(label=f"{found.label} ({OPERATORS[operator].label})")
