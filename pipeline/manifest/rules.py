"""The rules that every source format must keep: paths, names, labels, what is left open."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ManifestError
from pipeline.manifest.case import Case, Manifest, Region, SegmentCode
from pipeline.system.spelling import LONGEST_NAME, is_name
from pipeline.system.text import shown
from pipeline.volume import LARGEST_LABEL

_REMEDY = (
    "Name the folder that holds all data (data.root=FOLDER; for `trivox segment`, --root FOLDER), "
    "or permit this: --allow-outside."
)


@dataclass(frozen=True)
class DataFolder:
    """Where the data of a manifest lies.

    A manifest from elsewhere must not make anybody read, and report on, other files than those of
    its data set.

    Attributes:
        path: The folder.
        allow_outside: Whether files may lie elsewhere.
    """

    path: Path
    allow_outside: bool = False

    def locate(self, name: str | Path, where: object) -> Path:
        """Return the path of a file that a manifest names.

        Args:
            name: Relative to the folder, or absolute.
            where: The row or key that names it, for errors.

        Raises:
            ManifestError: If the file is outside the folder, by `..`, as an absolute path or by a
                symbolic link, and that is not allowed.
        """
        path = self.path / name
        if not self.allow_outside and not self._holds(path):
            raise ManifestError(where, "a path leads out of the data folder", _REMEDY)
        return path

    def _holds(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.path.resolve())
        except (OSError, RuntimeError, ValueError):
            # Links that lead in a circle, or a name that no file can have.
            return False


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


def check_ignore_value(value: int | None, labels: Mapping[str, int], where: object) -> int | None:
    """Return the value of ignored voxels.

    Raises:
        ManifestError: If it is background's, a label's, or out of range.
    """
    if value is None:
        return None
    if not 1 <= value <= LARGEST_LABEL:
        raise ManifestError(
            where,
            f"ignored voxels have the value {value}",
            f"0 is background: use a value from 1 to {LARGEST_LABEL} that no label has.",
        )
    taken = [name for name, used in labels.items() if used == value]
    if taken:
        raise ManifestError(
            where,
            f"ignored voxels and label {taken[0]!r} both have the value {value}",
            "Give ignored voxels a value of their own.",
        )
    return value


def check_regions(
    regions: Iterable[Region], labels: Mapping[str, int], where: object
) -> tuple[Region, ...]:
    """Return regions after holding them to the rules.

    Raises:
        ManifestError: If a name appears twice, is empty, or is that of a label that the region
            does not stand for; a region has no labels, or one that is unknown; or it writes a label
            that is not its own or that another region writes.
    """
    checked: dict[str, Region] = {}
    written_by: dict[str, str] = {}
    for region in regions:
        _check_region_name(region, checked, labels, where)
        if not region.labels:
            raise ManifestError(
                where, f"region {region.name!r} has no labels", "List what it is made of."
            )
        _check_known((*region.labels, region.writes), labels, f"{where}: region {region.name!r}")
        if region.writes not in region.labels:
            raise ManifestError(
                where,
                f"region {region.name!r} writes {region.writes!r}, which is none of its labels",
                f"Use one of: {', '.join(region.labels)}.",
            )
        if region.writes in written_by:
            raise ManifestError(
                where,
                f"regions {written_by[region.writes]!r} and {region.name!r} both write "
                f"{region.writes!r}",
                "Let each region write a label that tells it from the others.",
            )
        checked[region.name] = region
        written_by[region.writes] = region.name
    return tuple(checked.values())


def check_annotated(cases: Iterable[Case], labels: Mapping[str, int], where: object) -> None:
    """Refuse cases that annotate a label that the data set does not have.

    Raises:
        ManifestError: Naming the case, the label, and the known one nearest to it.
    """
    for case in cases:
        _check_known(case.annotated or (), labels, f"{where}: annotated labels of {case.name}")


def check_codes(
    codes: Mapping[str, SegmentCode], labels: Mapping[str, int], where: object
) -> dict[str, SegmentCode]:
    """Return codes after making sure that each is that of a label.

    Raises:
        ManifestError: Naming the unknown label, and the known one nearest to it.
    """
    _check_known(tuple(codes), labels, str(where))
    return dict(codes)


def _check_region_name(
    region: Region, others: Mapping[str, Region], labels: Mapping[str, int], where: object
) -> None:
    if not region.name.strip() or region.name.strip().lower() == "background":
        raise ManifestError(
            where, f"a region is called {region.name!r}", "Name the structure that it is."
        )
    if region.name in others:
        raise ManifestError(
            where, f"region {region.name!r} appears twice", "Give each region a name of its own."
        )
    if region.name in labels and set(region.labels) != {region.name}:
        raise ManifestError(
            where,
            f"region {region.name!r} has the name of a label, but is more than that label",
            "Give the region another name.",
        )


def _check_known(names: Sequence[str], labels: Mapping[str, int], where: str) -> None:
    for name in names:
        if name not in labels:
            raise ManifestError(where, f"unknown label {name!r}", nearest(name, labels))
