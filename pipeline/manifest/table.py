"""Read a list of cases from a CSV file: one row a case."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from pipeline.errors import ManifestError
from pipeline.manifest.case import Case, Channel, Manifest, SplitName, guess_modality, name_case
from pipeline.manifest.rules import DataFolder, collect_cases, nearest
from pipeline.system.documents import read_csv
from pipeline.system.text import shown

_COLUMNS = ("case", "image", "label", "subject", "split", "annotated", "sha256")
_SPLITS: tuple[SplitName, ...] = get_args(SplitName)
_CHANNEL_PREFIX = "image:"


def read_table(
    path: Path, folder: DataFolder, channels: tuple[Channel, ...] | None = None
) -> Manifest:
    """Return the manifest that a CSV file describes.

    The columns are `case`, `image` (or `image:NAME` for each channel), `label`, `subject`, `split`,
    `annotated` (label names, separated by semicolons) and `sha256`; only an image column is
    required, and an empty cell means "not given". Rows without any content are skipped. A CSV names
    no labels: the manifest's `labels` are empty.

    Args:
        path: The file.
        folder: That the file's paths are relative to.
        channels: The channels that the columns `image:NAME` must match, which also gives their
            order. By default, those that the columns name, in their order.

    Raises:
        ManifestError: If the header or a row does not hold; names the line.
    """
    lines = [
        (number, [cell.strip() for cell in cells])
        for number, cells in read_csv(path, ManifestError)
    ]
    header = lines[0][1] if lines else []
    image_columns, channels = _image_columns(header, channels, path)
    placed = [
        (where, _case(row, image_columns, folder, where))
        for where, row in _rows(lines[1:], header, path)
    ]
    return Manifest(
        path=path,
        name=path.stem,
        description="",
        origin="",
        licence="",
        channels=channels,
        labels={},
        cases=collect_cases(placed, path, num_channels=len(channels)),
    )


def _rows(
    lines: Sequence[tuple[int, Sequence[str]]], header: Sequence[str], path: Path
) -> Iterator[tuple[str, dict[str, str]]]:
    for number, cells in lines:
        if not any(cells):
            continue
        where = f"{path}:{number}"
        if len(cells) != len(header):
            raise ManifestError(
                where,
                f"{len(cells)} cells under {len(header)} columns",
                "Separate cells by commas, and quote a cell that has a comma in it.",
            )
        yield where, dict(zip(header, cells, strict=True))


def _image_columns(
    header: Sequence[str], channels: tuple[Channel, ...] | None, path: Path
) -> tuple[list[str], tuple[Channel, ...]]:
    """Return the columns that name image files, in the order of the channels, and those."""
    where = f"{path}:1"
    named = [name for name in header if name.startswith(_CHANNEL_PREFIX)]
    numbers = Counter(header)
    for name in header:
        if name not in _COLUMNS and not name.startswith(_CHANNEL_PREFIX):
            # Spreadsheets of many countries separate cells by semicolons.
            remedy = "Separate cells by commas." if ";" in name else nearest(name, _COLUMNS)
            raise ManifestError(where, f"unknown column {shown(name)}", remedy)
        if numbers[name] > 1:
            raise ManifestError(where, f"column {name!r} appears twice", "Remove one of them.")
    if ("image" in header) == bool(named):
        raise ManifestError(
            where,
            f"image columns are {', '.join(['image', *named]) if named else 'missing'}",
            "Have one column 'image', or a column 'image:NAME' for each channel.",
        )
    if not named:
        return ["image"], channels or (Channel("image", "other"),)
    if channels is None:
        names = [name.removeprefix(_CHANNEL_PREFIX) for name in named]
        return named, tuple(Channel(name, guess_modality(name)) for name in names)
    expected = [_CHANNEL_PREFIX + channel.name for channel in channels]
    if sorted(expected) != sorted(named):
        raise ManifestError(
            where,
            f"image columns are {', '.join(named)}",
            f"The manifest's channels ask for: {', '.join(expected)}.",
        )
    return expected, channels


def _case(
    row: Mapping[str, str], image_columns: Sequence[str], folder: DataFolder, where: str
) -> Case:
    for column in image_columns:
        if not row[column]:
            raise ManifestError(
                where, f"column {column!r} is empty", "Name the image file, or remove the row."
            )
    images = tuple(folder.locate(row[column], where) for column in image_columns)
    name = row.get("case") or name_case(images)
    sha256 = row.get("sha256", "").lower()
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ManifestError(
            where, f"sha256 {sha256!r} is not 64 hexadecimal digits", "Correct or empty the cell."
        )
    return Case(
        name=name,
        images=images,
        label=folder.locate(row["label"], where) if row.get("label") else None,
        subject=row.get("subject") or name,
        split=_split(row.get("split", ""), where),
        sha256=sha256 or None,
        annotated=_names(row.get("annotated", ""), where),
    )


def _names(text: str, where: str) -> tuple[str, ...] | None:
    if not text:
        return None
    names = tuple(name.strip() for name in text.split(";"))
    if not all(names) or len(set(names)) < len(names):
        raise ManifestError(
            where,
            f"annotated labels are {text!r}",
            "Name each label once, separated by semicolons, or leave the cell empty for all.",
        )
    return names


def _split(text: str, where: str) -> SplitName | None:
    if not text:
        return None
    for split in _SPLITS:
        if text == split:
            return split
    raise ManifestError(where, f"unknown split {text!r}", nearest(text, _SPLITS))
