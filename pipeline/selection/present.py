"""A model and the decision on its post-processing, for the terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipeline.model import ModelDescription, hash_model, read_description, unhashed_parts
from pipeline.postprocessing import PostprocessingConfig
from pipeline.selection.candidates import setting_in_words
from pipeline.selection.evidence import PICTURE, SUMS, Decision, read_decision
from pipeline.selection.records import CandidateRecord

MOST_CANDIDATES = 12
"""Candidates in the table; the CSV file has all of them."""

Line: TypeAlias = str | Table


def describe_model(folder: Path) -> list[Line]:
    """Return what the model in a folder is, and how its post-processing was chosen.

    Raises:
        ModelError: If the folder is no model.
    """
    description = read_description(folder)
    lines: list[Line] = [f"{name}: {value}" for name, value in _facts(description, folder)]
    lines += weaknesses(folder)
    decision = read_decision(folder)
    if decision is None:
        return [*lines, "post-processing was not chosen on validation: trivox postprocess-search"]
    lines.append("")
    if decision.postprocessing != description.postprocessing:
        lines.append("the post-processing above is not the one that was decided on here:")
    return [*lines, *describe_decision(decision, folder)]


def weaknesses(folder: Path) -> list[Line]:
    """Say which labels the model in a folder never saw in training, or does not find."""
    training = read_description(folder).training
    unseen = training.get("never_seen", [])
    by_member = unseen if isinstance(unseen, dict) else {"the model": unseen}
    return [
        *(
            f"never seen by {member} in training: {', '.join(_names(names))}"
            for member, names in by_member.items()
            if _names(names)
        ),
        *(
            f"warning: Dice of {name} is 0 on validation; masks of this model do not find it"
            for name in _names(training.get("never_found", []))
        ),
    ]


def _names(noted: object) -> list[str]:
    """Return the names that a model notes; anybody may have written something else there."""
    return [str(each) for each in noted] if isinstance(noted, list) else []


def describe_decision(decision: Decision, folder: Path) -> list[Line]:
    """Return a decision with its evidence.

    Args:
        decision: From `search_postprocessing` or `read_decision`.
        folder: Of the model, where the picture lies.
    """
    lines: list[Line] = []
    if decision.candidates:
        lines.append(_candidate_table(decision))
    if decision.structures:
        lines.append(_structure_table(decision))
    return [*lines, *summarise_decision(decision, folder)]


def summarise_decision(decision: Decision, folder: Path) -> list[Line]:
    """Return the scores without and with clean-up, and what was decided.

    Args:
        decision: From `search_postprocessing` or `read_decision`.
        folder: Of the model, where the picture lies.
    """
    lines: list[Line] = [_score_table(decision)] if decision.scores else []
    lines += [f"{way}: {words}" for way, words in decision.ways.items()]
    lines.append(f"decision on {decision.num_cases} validation cases: {_sentence(decision)}")
    if decision.verdict == "refused":
        lines.append(f"refused was: {decision.proposed}")
    lines += [f"post-processing: {words}" for words in _in_words(decision.postprocessing)]
    if decision.replaced is not None:
        lines.append(f"replaced: {'; '.join(_in_words(decision.replaced))}")
    if (folder / PICTURE).is_file():
        lines.append(f"evidence: {folder / PICTURE}, and the files beside it")
    return lines


def _sentence(decision: Decision) -> str:
    """Return the verdict and its reason; those of earlier versions begin with the verdict."""
    if decision.reason.startswith(decision.verdict):
        return decision.reason
    return f"{decision.verdict}; {decision.reason}"


def _facts(description: ModelDescription, folder: Path) -> Iterator[tuple[str, str]]:
    training = description.training
    yield "model", f"{description.name} ({folder}, sha256 {hash_model(folder)[:12]})"
    if unhashed := unhashed_parts(folder):
        names = ", ".join(str(part) for part in unhashed)
        yield "no hash is kept", f"of {names}; damage to it cannot be told"
    yield "labels", ", ".join(f"{name} {value}" for name, value in description.labels.items())
    if description.regions:
        yield (
            "regions",
            ", ".join(
                f"{region.name} ({' + '.join(region.labels)})" for region in description.regions
            ),
        )
    channels = [
        f"{channel.name} ({channel.modality}, {how.kind})"
        for channel, how in zip(
            description.channels, description.preprocessing.channels, strict=True
        )
    ]
    yield "channels", ", ".join(channels)
    yield "spacing", _by_axis(description.preprocessing.spacing_mm) + " mm"
    features = "-".join(map(str, description.network.features))
    patch = description.patch_size
    size = f", patches of {_by_axis(patch)} voxels" if patch else ""
    yield "network", f"{description.network.name}, features {features}{size}"
    yield "members", str(description.num_members)
    data = training.get("data", "not recorded")
    is_fold = "fold" in training and "folds" in training
    fold = f"fold {training['fold']} of {training['folds']}" if is_fold else ""
    yield (
        "trained on",
        f"{description.fingerprint.num_cases} cases of {data}" + f", {fold}" * bool(fold),
    )
    changes = [f"{name} changes {share:.2%}" for name, share in description.label_change.items()]
    measured = f" (of foreground labels, {', '.join(changes)})" if changes else ""
    yield "precision", description.inference.precision + measured
    for words in _in_words(description.postprocessing):
        yield "post-processing", words


def _in_words(config: PostprocessingConfig) -> list[str]:
    words = []
    if config.crf is not None:
        labels = "all labels" if config.crf_labels is None else ", ".join(config.crf_labels)
        words.append(f"{setting_in_words(config.crf)}, on {labels}")
    words += [str(rule) for rule in config.rules]
    if config.largest_change:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in config.largest_change.items())
        words.append(f"largest change seen on validation: {shares}")
    return words or ["none"]


def _by_axis(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _candidate_table(decision: Decision) -> Table:
    headings = ("candidate", "n", "Dice change", "95 % interval", "NSD", "HD95", "worst label", "")
    table = _table(*headings)
    shown = _best(decision.candidates)
    for candidate in shown:
        table.add_row(
            Text(SUMS.get(candidate.kind, candidate.name)),
            str(decision.num_cases if candidate.num_cases is None else candidate.num_cases),
            f"{candidate.gain:+.4f}",
            Text(f"[{candidate.low:+.4f}, {candidate.high:+.4f}]"),
            "" if candidate.nsd_gain is None else f"{candidate.nsd_gain:+.4f}",
            "" if candidate.hd95_gain is None else f"{-candidate.hd95_gain:+.1%}",
            Text(f"{candidate.worst_label} {candidate.worst_change:+.4f}"),
            "passes" if candidate.passes else "",
        )
    hidden = len(decision.candidates) - len(shown)
    more = f"; {hidden} more in candidates.csv" if hidden else ""
    table.caption = "on n cases; a field against the rules that were chosen, all else against "
    table.caption += f"no post-processing{more}"
    return table


def _best(candidates: tuple[CandidateRecord, ...]) -> list[CandidateRecord]:
    ranked = sorted(candidates, key=lambda c: (c.kind not in SUMS, not c.passes, -c.gain))
    return ranked[:MOST_CANDIDATES]


def _structure_table(decision: Decision) -> Table:
    headings = ("label", "n", "Dice before", "after", "NSD before", "after", "HD95 before", "after")
    table = _table(*headings)
    for row in decision.structures:
        table.add_row(
            Text(row.name),
            str(row.num_cases),
            f"{row.dice_before:.4f}",
            f"{row.dice_after:.4f}",
            f"{row.nsd_before:.4f}",
            f"{row.nsd_after:.4f}",
            _number(row.hd95_before, ".2f"),
            _number(row.hd95_after, ".2f"),
        )
    way = (
        "each fold by what was chosen on the others" if decision.of_folds else "nothing was chosen"
    )
    table.caption = f"{way}; NSD at {decision.nsd_tolerance_mm:g} mm, HD95 in mm"
    return table


def _score_table(decision: Decision) -> Table:
    headings = ("clean-up", "label", "n", "Dice", "NSD", "HD95 mm", "volume error %")
    table = _table(*headings)
    last = None
    for row in decision.scores:
        if row.way != last and last is not None:
            table.add_section()
        is_chosen = row.way.split(" (")[0] == decision.chosen_way
        mark = f"{row.way}{' (chosen)' * is_chosen}" if row.way != last else ""
        last = row.way
        table.add_row(
            mark,
            Text(row.label),
            str(row.num_cases),
            _number(row.dice, ".4f"),
            _number(row.nsd, ".4f"),
            _number(row.hd95_mm, ".2f"),
            _number(row.volume_error_percent, "+.1f"),
        )
    table.caption = "on the cases that the choice was made on"
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _table(*headings: str) -> Table:
    table = Table(*headings, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.columns[0].overflow = "fold"
    return table
