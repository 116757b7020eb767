"""Read an nnU-Net v2 raw data folder, as it is.

Source:
    https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/region_based_training.md and
    ignore_label.md beside it.

Source:
    https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md; what names of
    channels mean: explanation_normalization.md beside it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from pipeline.errors import ManifestError
from pipeline.manifest.case import Case, Channel, Manifest, Region, SplitName, guess_modality
from pipeline.manifest.faults import fit
from pipeline.manifest.rules import (
    DataFolder,
    check_channel_form,
    check_ignore_value,
    check_label_form,
    check_regions,
    collect_cases,
    foreground_labels,
)
from pipeline.manifest.scheme import Scheme

Values = int | tuple[int, ...]

IGNORE = "ignore"
"""The name that nnU-Net reserves."""


def read_nnunet_labels(
    entries: Mapping[str, Values], order: tuple[int, ...] | None, path: Path
) -> tuple[dict[str, int], int | None, tuple[Region, ...]]:
    """Return label names and values, the ignored value, and regions if the data set has any.

    Where one entry lists several values, all of them are regions, as in nnU-Net. A value that no
    entry names alone is a label called by its number, such as `"label 2"`.

    Args:
        entries: The key `labels`.
        order: The key `regions_class_order`: the value that each region writes.
        path: The `dataset.json`, for errors.

    Raises:
        ManifestError: If labels, regions or the ignored value do not hold.
    """
    where = f"{path}: labels"
    values = {name: _as_tuple(value) for name, value in entries.items()}
    ignored = values.pop(IGNORE, None)
    if ignored is not None and len(ignored) != 1:
        raise ManifestError(
            where, f"label 'ignore' has {len(ignored)} values", "Give ignored voxels one value."
        )
    empty = [name for name, listed in values.items() if not listed]
    if empty:
        raise ManifestError(where, f"region {empty[0]!r} has no values", "List those it has.")
    regions = {name: listed for name, listed in values.items() if listed != (0,)}
    has_regions = any(len(listed) > 1 for listed in regions.values())
    # A value may be shared among regions, but a second name for one by itself stays an error.
    named = [(name, listed[0]) for name, listed in values.items() if len(listed) == 1]
    if has_regions:
        alone = {value for _, value in named}
        shared = sorted({value for listed in regions.values() for value in listed} - alone - {0})
        named += [(f"label {value}", value) for value in shared]
    labels = foreground_labels(named, where)
    ignore_value = check_ignore_value(ignored[0] if ignored else None, labels, where)
    if not has_regions:
        return labels, ignore_value, ()
    return labels, ignore_value, _regions(regions, order, labels, path)


def _as_tuple(value: Values) -> tuple[int, ...]:
    return tuple(dict.fromkeys(value)) if isinstance(value, tuple) else (value,)


def _regions(
    values: Mapping[str, tuple[int, ...]],
    order: tuple[int, ...] | None,
    labels: Mapping[str, int],
    path: Path,
) -> tuple[Region, ...]:
    where = f"{path}: regions_class_order"
    if order is None or len(order) != len(values):
        found = "is missing" if order is None else f"has {len(order)} values"
        raise ManifestError(
            where,
            f"the key {found}, and there are {len(values)} regions",
            "List the value that each region writes, in the order of the labels.",
        )
    name_of = {value: name for name, value in labels.items()}
    for name, listed in values.items():
        if 0 in listed:
            raise ManifestError(
                f"{path}: labels", f"region {name!r} holds background (0)", "Leave the 0 out."
            )
    unknown = [value for value in order if value not in name_of]
    if unknown:
        listed_values = ", ".join(map(str, name_of))
        raise ManifestError(where, f"no region has value {unknown[0]}", f"Use {listed_values}.")
    regions = (
        Region(name, tuple(name_of[value] for value in listed), name_of[written])
        for (name, listed), written in zip(values.items(), order, strict=True)
    )
    return check_regions(regions, labels, where)


_SCHEMES: Mapping[str, Scheme] = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_0_1",
    "rescale_0_1": "rescale_0_1",
    "rgb_to_0_1": "rgb_0_1",
}
"""What nnU-Net takes from a channel's name, in any case; any other name stands for a z-score."""


class _Files(BaseModel):
    model_config = ConfigDict(frozen=True)

    images: tuple[str, ...] = Field(description="One file for each channel.")
    label: str = Field(description="The reference label map.")


class _NnunetFile(BaseModel):
    """What is read of a `dataset.json`; whatever else a data set notes there is left alone."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(default="", description="Name of the data set.")
    description: str = Field(default="", description="What it shows.")
    reference: str = Field(default="", description="Where it comes from.")
    licence: str = Field(default="", description="The terms of use.")
    channel_names: dict[str, str] = Field(min_length=1, description="Channel number to its name.")
    labels: dict[str, StrictInt | tuple[StrictInt, ...]] = Field(description="Name to value(s).")
    regions_class_order: tuple[StrictInt, ...] | None = Field(
        default=None, description="Value that each region writes, in the order of the labels."
    )
    file_ending: str = Field(pattern=r"^\.", description="Suffix of images and labels.")
    num_training: int | None = Field(default=None, validation_alias="numTraining")
    dataset: dict[str, _Files] | None = Field(default=None, description="Files of each case.")


def read_nnunet(data: dict[str, object], path: Path, folder: DataFolder) -> Manifest:
    """Return the manifest that an nnU-Net v2 raw folder describes.

    Cases are the images in `imagesTr` (and, as test cases, `imagesTs`), or those that the key
    `dataset` names where there is one.

    Args:
        data: Content of the folder's `dataset.json`.
        path: That file.
        folder: Where the data lies.

    Raises:
        ManifestError: If the content does not hold, or the folder does not agree with it.
    """
    check_label_form(data.get("labels"), path, "nnU-Net v2")
    check_channel_form(data["channel_names"], f"{path}: channel_names")
    licence = data.get("licence", data.get("license", ""))
    file = fit(_NnunetFile, {**data, "licence": licence}, path)
    channels = _channels(file, path)
    labels, ignore, regions = read_nnunet_labels(file.labels, file.regions_class_order, path)
    if file.dataset is not None:
        training = _named_cases(file.dataset, path, folder)
    else:
        training = _folder_cases(folder, "Tr", None, len(channels), file.file_ending)
        if file.num_training not in (None, len(training)):
            raise ManifestError(
                path,
                f"numTraining is {file.num_training}, but imagesTr holds {len(training)} cases",
                "Copy the missing files, or correct the number.",
            )
    test = _folder_cases(folder, "Ts", "test", len(channels), file.file_ending)
    return Manifest(
        path=path,
        name=file.name or path.resolve().parent.name,
        description=file.description,
        origin=file.reference,
        licence=file.licence,
        channels=channels,
        labels=labels,
        cases=collect_cases([*training, *test], path, num_channels=len(channels)),
        ignore_value=ignore,
        regions=regions,
    )


def _channels(file: _NnunetFile, path: Path) -> tuple[Channel, ...]:
    names = file.channel_names
    if sorted(names) != sorted(str(number) for number in range(len(names))):
        raise ManifestError(
            f"{path}: channel_names",
            f"channels are numbered {', '.join(names)}",
            "Number them from 0 without gaps, as the image files' suffixes (_0000, _0001) do.",
        )
    return tuple(_channel(names[str(number)]) for number in range(len(names)))


def _channel(name: str) -> Channel:
    modality = guess_modality(name)
    scheme = _SCHEMES.get(name.casefold())
    if scheme is None and modality == "CT":
        scheme = "zscore"
    return Channel(name, modality, scheme)


def _named_cases(
    files: Mapping[str, _Files], path: Path, folder: DataFolder
) -> list[tuple[str, Case]]:
    placed = []
    for name, entry in files.items():
        where = f"{path}: dataset.{name}"
        images = tuple(folder.locate(image, where) for image in entry.images)
        placed.append((where, Case(name, images, folder.locate(entry.label, where), name)))
    return placed


def _folder_cases(
    folder: DataFolder, suffix: str, split: SplitName | None, num_channels: int, ending: str
) -> list[tuple[str, Case]]:
    images, labels = Path(f"images{suffix}"), Path(f"labels{suffix}")
    if not (folder.path / images).is_dir():
        return []
    placed: dict[str, tuple[str, Case]] = {}
    for image in sorted((folder.path / images).iterdir()):
        # Hidden files are no images: macOS leaves "._" files in the archives that it makes.
        if image.name.startswith(".") or not image.name.endswith(ending):
            continue
        match = re.fullmatch(r"(.+)_(\d{4})", image.name.removesuffix(ending))
        if match is None or int(match[2]) >= num_channels:
            raise ManifestError(
                image,
                f"the name does not end in one of {num_channels} channel numbers",
                f"Name images CASE_0000{ending}, with a number below that of channel_names.",
            )
        name = match[1]
        numbers = (f"{name}_{number:04d}{ending}" for number in range(num_channels))
        files = tuple(folder.locate(images / file, image) for file in numbers)
        label = folder.locate(labels / f"{name}{ending}", image)
        has_label = split is None or label.is_file()
        case = Case(name, files, label if has_label else None, subject=name, split=split)
        placed[name] = (str(image), case)
    return list(placed.values())
