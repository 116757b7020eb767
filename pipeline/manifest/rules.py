"""The rules that every source format must keep: labels and case names that mean one thing."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.errors import ManifestError
from pipeline.manifest.case import Case, Manifest
from pipeline.outside import shown
from pipeline.spelling import LONGEST_NAME, is_name
from pipeline.volume import LARGEST_LABEL

LONGEST_COMPARED, MOST_COMPARED = 200, 2000
"""Characters of a word, and number of those that it is compared with."""

MOST_LISTED = 100
"""Choices that an error names."""

MOST_NUMBER_DIGITS = 18
"""Of a number of a channel or a label: more than any has."""

_NO_FILE_NAME = re.compile(r"\.\.?|.*[/\\].*", re.DOTALL)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a remedy that names the choice nearest to a mistyped `word`, or all of them."""
    known = sorted(choices)
    # Comparing takes time that grows with the lengths of both.
    if len(word) > LONGEST_COMPARED or len(known) > MOST_COMPARED:
        return _one_of(known)
    begun = [choice for choice in known if len(word) > 2 and choice.startswith(word.lower())]
    match = begun or difflib.get_close_matches(word.lower(), known, n=1)
    return f"Did you mean {match[0]!r}?" if match else _one_of(known)


def _one_of(known: Sequence[str]) -> str:
    more = len(known) - MOST_LISTED
    listed = ", ".join(known[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
    return f"Use one of: {listed}."


def check_label_form(entries: object, path: Path, form: str) -> None:
    """Refuse labels whose names and values are swapped, and values that are text.

    Args:
        entries: The key `labels` as it stands in the file; anything but a mapping is let pass.
        path: The file.
        form: What is read, such as `"nnU-Net v2"`.

    Raises:
        ManifestError: Naming the label.
    """
    if not isinstance(entries, Mapping):
        return
    for name, value in entries.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(each, str):
                continue
            if is_number(name) and not is_number(each):
                found = f"names and values are swapped (the old form): {name}: {each!r}"
                raise ManifestError(f"{path}: labels", found, f"{form} wants NAME: VALUE.")
            if is_number(each):
                found = f"label {name!r} has the text {each!r}"
                raise ManifestError(f"{path}: labels", found, f"Write the number {int(each)}.")


def check_channel_form(entries: object, where: str) -> None:
    """Refuse channels whose names and numbers are swapped.

    Raises:
        ManifestError: Naming the channel.
    """
    if isinstance(entries, Mapping):
        for name, value in entries.items():
            if is_number(value) and not is_number(name):
                found = f"numbers and names are swapped: {name!r}: {value!r}"
                raise ManifestError(where, found, f'Write {{"{value}": "{name}"}}.')


def is_number(word: object) -> bool:
    """Tell whether a key or a value is a whole number, or text that says one."""
    text = word.strip() if isinstance(word, str) else str(word)
    is_short = len(text) <= MOST_NUMBER_DIGITS
    return not isinstance(word, bool) and is_short and text.isascii() and text.isdigit()


def foreground_labels(named: Iterable[tuple[str, int]], where: object) -> dict[str, int]:
    """Return label names and values without the background, in the order of their values.

    Args:
        named: Pairs of name and value. A pair `("background", 0)`, in any case, is left out.
        where: Place to name in errors.

    Raises:
        ManifestError: If a name or a value appears twice, a value is negative, or one of
            "background" and 0 comes without the other.
    """
    labels: dict[str, int] = {}
    by_value: dict[int, str] = {}
    for name, value in named:
        is_background = name.strip().lower() == "background"
        if is_background != (value == 0) or value < 0:
            raise ManifestError(
                where,
                f"label {name!r} has the value {value}",
                "0 is background and nothing else; give each structure a value from 1.",
            )
        if is_background:
            continue
        if value > LARGEST_LABEL:
            raise ManifestError(
                where, f"label {name!r} has the value {value}", f"Use values up to {LARGEST_LABEL}."
            )
        if name in labels:
            raise ManifestError(
                where, f"label {name!r} appears twice", "Give each structure a name of its own."
            )
        if value in by_value:
            raise ManifestError(
                where,
                f"labels {by_value[value]!r} and {name!r} both have the value {value}",
                "Give each structure a value of its own.",
            )
        labels[name], by_value[value] = value, name
    return dict(sorted(labels.items(), key=lambda pair: pair[1]))


def check_names(manifest: Manifest) -> Manifest:
    """Return a manifest whose channels, labels and regions are called by names.

    Raises:
        ManifestError: If a name is empty, long or has characters that cannot be seen.
    """
    named = {
        "channel": (channel.name for channel in manifest.channels),
        "label": manifest.labels,
        "region": (region.name for region in manifest.regions),
    }
    for what, names in named.items():
        for name in names:
            if not is_name(name):
                remedy = f"Use 1 to {LONGEST_NAME} letters, digits, marks and spaces."
                raise ManifestError(manifest.path, f"{what} {shown(name)} is no name", remedy)
    return manifest


def collect_cases(
    placed: Sequence[tuple[str, Case]], path: Path, *, num_channels: int
) -> tuple[Case, ...]:
    """Return the cases of a source after holding them to the rules.

    Args:
        placed: Each case with its place in the source (row or key), for errors.
        path: The source.
        num_channels: Number of channels that the source declares.

    Raises:
        ManifestError: If there is no case, a name appears twice or cannot be a file name, or a
            case has neither one image file nor one for each channel.
    """
    if not placed:
        raise ManifestError(path, "no case is listed", "List at least one case.")
    first_place: dict[str, str] = {}
    for where, case in placed:
        if not is_name(case.name) or _NO_FILE_NAME.fullmatch(case.name):
            raise ManifestError(
                where,
                f"case name {shown(case.name)} cannot be a file name",
                f"Results are named by the case: up to {LONGEST_NAME} characters, no slash and no "
                "control character.",
            )
        if case.name in first_place:
            raise ManifestError(
                where,
                f"case name {case.name!r} is taken already, by {first_place[case.name]}",
                "Give each case a name of its own: rename a file, or use a CSV with a case column.",
            )
        if len(case.images) not in (1, num_channels):
            raise ManifestError(
                where,
                f"{len(case.images)} image files for {num_channels} channels",
                "List one file for each channel, or one file that holds them all.",
            )
        first_place[case.name] = where
    return tuple(case for _, case in placed)
