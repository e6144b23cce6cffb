"""What the page's part on explanations holds: its groups of methods, its tables and its figures, in order."""

from collections.abc import Iterator, Sequence

from reports import figures
from reports.checks import (
    against_attention,
    all_methods,
    audited_measures,
    gates,
    kept_completeness,
    sanity_checks,
    tampered_captions,
)
from reports.explanations import ANSWERS, FAMILIES, LAGS, PATH_MAPS
from reports.legend import OPERATORS
from reports.records import (
    AGREEMENT,
    EXTRAS,
    FAITHFULNESS,
    GATE,
    LOCALISATION,
    PATHS,
    TRIAL_DISTANCES,
    TRIAL_DROPS,
    MethodInfo,
)
from reports.summary import Summary
from reports.tables import Grid, Groups, by_class, of_classes, of_lags, of_methods

_TITLES = {
    "explanations": "Explanations",
    "comparison": "For comparison with papers",
    "unsound": "Unsound, run because they were asked for",
    "parts": "Parts of the gradient, by its three paths",
    "controls": "Controls: maps that know nothing of the word",
    "answers": "Answers: maps made from the true places",
}


def grouped(methods: Sequence[MethodInfo]) -> dict[str, list[MethodInfo]]:
    """Explanations, parts of them, controls and answers, which tables and figures keep apart.

    Attention at other steps is left out: it has a table of its own.
    """
    groups: dict[str, list[MethodInfo]] = {name: [] for name in _TITLES}
    for method in methods:
        if method.name in ANSWERS:
            groups["answers"].append(method)
        elif method.kind == "control":
            groups["controls"].append(method)
        elif method.name in PATH_MAPS:
            groups["parts"].append(method)
        elif method.name not in LAGS.values() or method.name == LAGS[0]:
            groups[method.group if method.group in groups else "explanations"].append(method)
    return {_TITLES[name]: members for name, members in groups.items() if members}


def explanation_tables(summary: Summary, groups: Groups) -> dict[str, list[Grid]]:
    """Every table by the part of the page it stands in; parts without tables are left out."""
    classes = list(dict.fromkeys(c for t in summary.classes.values() for row in t.values() for c in row))
    tables: dict[str, list[Grid | None]] = {
        "gates": [gates(summary)],
        "completeness": [kept_completeness(summary)],
        "localisation": list(_localisation(summary, groups)),
        "faithfulness": list(_faithfulness(summary, groups)),
        "agreement": [of_methods(
            "Agreement with attention. Chance is the same map against attention for words of its class in other "
            "images, for the other words of its image, and against attention shifted around the picture’s edges; "
            "corrected is the way from the first of these to the best possible (↑ higher, ↓ lower is more alike)",
            groups, summary.agreement, AGREEMENT, summary.struck,
        )],
        "classes": [
            by_class(measure, table, groups, summary.struck, classes) for measure, table in summary.classes.items()
        ],
        "paths": [of_classes(
            "Path shares: which way a word’s gradient takes from the picture to the word (they describe only)",
            summary.paths, PATHS,
        )],
        "trial": list(_trial(summary)),
        "interventions": [tampered_captions(summary.interventions)],
        "sanity": sanity_checks(summary),
        "audit": [audited_measures(summary.audit)],
        "comparisons": [against_attention(summary, family) for family in FAMILIES],
        "methods": [all_methods(summary.methods)],
    }  # fmt: skip
    found = {name: [table for table in parts if table] for name, parts in tables.items()}
    return {name: parts for name, parts in found.items() if parts}


def _localisation(summary: Summary, groups: Groups) -> Iterator[Grid | None]:
    yield of_methods(
        "Localisation: is the map where the word’s thing is? Means over words that have a place (↑ higher is better)",
        groups, summary.localisation, LOCALISATION, summary.struck,
    )  # fmt: skip
    yield of_classes(
        "Attention’s localisation by word class (↑ higher is better)",
        summary.attention_by_class,
        LOCALISATION,
    )


def _faithfulness(summary: Summary, groups: Groups) -> Iterator[Grid | None]:
    for operator, meaning in OPERATORS.items():
        yield of_methods(
            f"Faithfulness, {meaning.label}: does the model need what the map marks? {meaning.meaning} Chance "
            "is the random map; the reference, where there is one, the true place (↑ higher, ↓ lower is better)",
            groups, summary.faithfulness, [f"{measure}_{operator}" for measure in FAITHFULNESS], summary.struck,
            ceiling="reference",
        )  # fmt: skip
    yield of_methods(
        "Further tests of maps; chance is the random map (↑ higher, ↓ lower is better)",
        groups, summary.extras, EXTRAS, summary.struck, ceiling="reference",
    )  # fmt: skip


def _trial(summary: Summary) -> Iterator[Grid | None]:
    yield of_classes(
        "What a word’s probability loses when this step looks elsewhere, and the gate on what it looks at (these "
        "describe only: much is lost where the word needs what this step looks at)",
        summary.trial, (*TRIAL_DROPS, GATE),
    )  # fmt: skip
    yield of_classes("By how much the distribution over all words moves then", summary.trial, TRIAL_DISTANCES)
    yield of_lags(summary.lags)


def explanation_figures(summary: Summary, groups: Groups) -> dict[str, str]:
    """Every figure; methods that are struck out stand in none, and there is none without numbers."""
    fit = [[method for method in group if method.name not in summary.struck] for group in groups.values()]
    drawn = {
        "localisation": figures.measures_by_method(
            summary.localisation, fit, ("auc", "pointing", "mass", "rank"),
            name="localisation", title="Localisation per method with null and ceiling",
        ),
        "faithfulness": figures.measures_by_method(
            summary.faithfulness, fit, ("abpc_cells", "deletion_cells", "insertion_cells", "abpc_blur"),
            name="faithfulness", title="Faithfulness per method with the random map and the true place",
            ceiling="the true place on the grid; no limit",
        ),
        "agreement": figures.measures_by_method(
            summary.agreement, fit, AGREEMENT,
            name="agreement", title="Agreement with attention per method with null",
        ),
        "paths": figures.path_shares(summary.paths),
        "lags": figures.lag_profile(summary.lags),
        "trial": figures.trial_drops(summary.trial),
    }  # fmt: skip
    return {name: svg for name, svg in drawn.items() if svg}
