"""What a training comes to, in sentences, by rules that the docstrings state."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from reports.records import Json
from reports.tables import count, number
from reports.training import RANDOM_WEIGHTS, EpochRow, TrainingRecord
from reports.verdict import Finding
from reports.wording import clip, percent

_FEW_IMAGES = 500
"""CIDEr of one photograph's caption spreads by some 0.85 (Karpathy's splits): a mean over 500 has an error of 0.04."""
_WORSE = 1.01
"""Validation loss has risen if it is more than a hundredth above its lowest."""
_EARLY = 3
"""Scored epochs below which nothing is said of where a training goes."""
_LAST = 5
"""Scores that are told of the end."""
_MOST_STAGES = 100
_OF_TRIALS = ("limit", "max_steps")
"""Settings that only a trial has."""
_MANNERS = {
    "finished": "Finished",
    "running": "Still running",
    "interrupted": "Interrupted",
    "failed": "Failed",
}


class Stage(NamedTuple):
    """What the settings say of a stage."""

    name: str
    objective: str
    """Empty if the settings do not say."""
    epochs: int | None
    """Planned; None if the settings do not say."""
    settings: Mapping[str, object]

    @property
    def is_frozen(self) -> bool:
        """Whether the trunk stays as it is."""
        return "trained_from" in self.settings and self.settings["trained_from"] is None


def stages(config: Json) -> list[Stage]:
    """The stages that the settings name; settings are a stranger's, so anything else there is passed over."""
    listed = config.get("stages")
    found = []
    for settings in listed[:_MOST_STAGES] if isinstance(listed, list | tuple) else ():
        if isinstance(settings, dict):
            epochs = settings.get("epochs")
            name, objective = (settings.get(key, "") for key in ("name", "objective"))
            known = epochs if type(epochs) is int and 0 < epochs < 1 << 31 else None
            found.append(Stage(str(name), str(objective), known, settings))
    return found


def findings(record: TrainingRecord, plan: Sequence[Stage], steps: int) -> tuple[Finding, ...]:
    """Answers four questions.

    Args:
        record: of the training.
        plan: its stages.
        steps: how many have been logged.

    Returns:
        How good its captions are, how far it got, whether more would help, and what was trained.
    """
    return _captions(record), _progress(record, plan, steps), _prospects(record, plan), _trained(record)


def _captions(record: TrainingRecord) -> Finding:
    """Answered by the real scores of the epoch whose weights are kept."""
    question, epochs = "How good are its captions?", record.epochs
    if record.best is None:
        reasons = [row.reason for row in epochs if row.reason]
        ended = "no epoch has ended" if not epochs else "no reason was stored"
        return Finding(question, "Not scored", (f"Why: {clip(reasons[-1] if reasons else ended)}.",))
    best = epochs[record.best]
    shown = [
        f"{name} {number(value)}"
        for name, value in (("CIDEr", best.val_cider), ("BLEU-4", best.val_bleu4))
        if value is not None
    ]
    searched = _setting(record.config, "validation_beam", "beam search with beam size {}", "beam search")
    chosen = _setting(record.config, "selection", "{}", "these scores")
    return Finding(
        question,
        " · ".join(shown) or f"Not scored: {clip(best.reason or 'no reason was stored', 80)}",
        (
            f"Real {searched} over {count(best.val_images, 'validation image')}, after epoch {record.best + 1} of "
            f"{len(epochs)}, whose weights are kept.",
            f"This epoch was chosen by {chosen} on these very images, which flatters it; the test split, "
            "with intervals, is what to quote.",
        ),
    )


def _progress(record: TrainingRecord, plan: Sequence[Stage], steps: int) -> Finding:
    """Epochs that ended, of those that are planned; stages may end early."""
    done, planned = len(record.epochs), sum(stage.epochs or 0 for stage in plan)
    whole = bool(plan) and all(stage.epochs for stage in plan)
    answer = _MANNERS[record.status]
    if record.status == "finished":
        answer += f": {count(done, 'epoch')}"
    else:
        answer += f" in epoch {done + 1}" + (f" of {planned}" if whole and done < planned else "")
    sentences = [f"{count(steps, 'step')} of the optimizer in {count(max(len(plan), 1), 'stage')}."]
    if record.status == "finished" and whole and done < planned:
        why = "a stage ends early when its score no longer rises"
        if record.config.get("max_steps") is not None:
            why = "the number of steps was limited"
        sentences.append(f"{planned:,} epochs were planned; {why}.")
    if record.status in ("interrupted", "failed"):
        sentences.append("The same command goes on from the last checkpoint.")
    if record.epochs:
        speed = record.epochs[-1].words_per_second
        sentences.append(f"{speed:,.0f} words per second in the last epoch.")
    return Finding("How far did it get?", answer, tuple(sentences))


def _prospects(record: TrainingRecord, plan: Sequence[Stage]) -> Finding:
    """By the score that selects: it still rises if no epoch is better than the last.

    Overfitting is said where validation loss is more than a hundredth above its lowest while training loss has fallen
    since, both within the last stage, and not where a stage learns from its own captions.
    """
    question = "Would more epochs help?"
    scored = [place for place, row in enumerate(record.epochs) if _is_scored(row)]
    if len(scored) < _EARLY or record.best is None:
        return Finding(
            question, "Too early to tell", (f"{count(len(scored), 'epoch')} scored; {_EARLY} are needed.",)
        )
    waited = len(record.epochs) - 1 - record.best
    sentences = []
    if waited == 0:
        answer = "Perhaps"
        sentences.append("The last epoch is the best so far.")
    else:
        answer = "No sign of it" if waited >= _EARLY else "Not clear"
        sentences.append(
            f"{'The last epoch was' if waited == 1 else f'The last {waited:,} epochs were'} no better than epoch "
            f"{record.best + 1}."
        )
    shown = ", ".join(number(_score(record.epochs[place])) for place in scored[-_LAST:])
    measure = "CIDEr" if record.epochs[scored[-1]].val_cider is not None else "BLEU-4"
    sentences.append(f"{measure} after the last {min(len(scored), _LAST)}: {shown}.")
    return Finding(question, answer, (*sentences, *_overfitting(record.epochs, plan)))


def _is_scored(row: EpochRow) -> bool:
    return row.val_cider is not None or row.val_bleu4 is not None


def _score(row: EpochRow) -> float:
    """CIDEr, or BLEU-4 where there is none."""
    return next(value for value in (row.val_cider, row.val_bleu4) if value is not None)


def _overfitting(epochs: Sequence[EpochRow], plan: Sequence[Stage]) -> Iterator[str]:
    last = epochs[-1]
    if any(stage.name == last.stage and stage.objective == "self-critical" for stage in plan):
        return
    held = [row for row in epochs if row.stage == last.stage and row.val_loss is not None]
    if not held or last.val_loss is None:
        return
    lowest = min(held, key=lambda row: row.val_loss or 0.0)
    if last.val_loss > _WORSE * (lowest.val_loss or 0.0) and last.loss < lowest.loss:
        place = epochs.index(lowest) + 1
        yield (
            f"It overfits: since epoch {place} validation loss has risen from {number(lowest.val_loss or 0.0, 2)} to "
            f"{number(last.val_loss, 2)} nats per word, while training loss went on falling."
        )


def _trained(record: TrainingRecord) -> Finding:
    model, data = record.model, record.data
    share = f" ({percent(model.trained / model.parameters)})" if model.parameters > 0 else ""
    weights = "random" if is_random(record) else clip(model.weights, 120)
    return Finding(
        "What was trained?",
        f"{_short(model.trained)} weights",
        (
            f"{clip(model.encoder, 60)} encoder, {count(model.vocabulary_size, 'word')} of vocabulary; "
            f"{model.trained:,} of {model.parameters:,} parameters{share} were trained.",
            f"The trunk’s first weights: {weights}.",
            f"{count(data.captions, 'caption')} of {count(data.train_images, 'training image')}; judged on "
            f"{count(data.val_images, 'validation image')}.",
        ),
    )


def is_random(record: TrainingRecord) -> bool:
    """Whether nobody had trained the trunk before."""
    return record.model.weights.startswith(RANDOM_WEIGHTS)


def warnings(record: TrainingRecord, plan: Sequence[Stage]) -> list[str]:
    """What to know before believing the page, the gravest first.

    Args:
        record: of the training.
        plan: its stages.

    Returns:
        Sentences, none twice.
    """
    return list(dict.fromkeys((*_own_warnings(record, plan), *record.warnings)))


def _own_warnings(record: TrainingRecord, plan: Sequence[Stage]) -> Iterator[str]:
    data, git = record.data, record.provenance.git
    if record.status == "failed":
        yield "This training failed; its last checkpoint may be older than the last line of its logs."
    if trial := [f"{key} {record.config[key]}" for key in _OF_TRIALS if record.config.get(key) is not None]:
        yield f"This was a trial ({clip(', '.join(trial), 80)}): its scores say nothing about the recipe."
    is_told = any("random weights" in text for text in record.warnings)
    if is_random(record) and not is_told and (not plan or plan[0].is_frozen):
        yield (
            "The trunk has random weights and stays as it is: this shows that the recipe runs, not what it can do. "
            "Give --encoder-weights."
        )
    if data.left_out:
        total = data.train_images + data.val_images
        yield (
            f"{len(data.left_out):,} of {count(total, 'picture')} could not be used and were left out; they are "
            "listed below."
        )
    judged = record.epochs[-1].val_images if record.epochs else data.val_images
    if judged < _FEW_IMAGES:
        yield (
            f"Epochs are compared on {count(judged, 'validation image')}: small differences between them, and which of "
            "them is the best, are chance."
        )
    if git is not None and git.dirty:
        yield f"The code had changes that are in no commit, so that {git.commit[:10]} does not say what ran."


def _setting(config: Json, key: str, known: str, unknown: str) -> str:
    value = config.get(key)
    return known.format(clip(str(value), 40)) if isinstance(value, str | int) else unknown


def _short(parameters: int) -> str:
    """A number of parameters, to be read at a glance."""
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if parameters >= size:
            return f"{parameters / size:.3g} {unit}"
    return f"{parameters:,}"
