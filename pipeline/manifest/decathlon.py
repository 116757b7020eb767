"""Read the `dataset.json` of the Medical Segmentation Decathlon, as it is.

Source:
    Antonelli et al., The Medical Segmentation Decathlon, doi:10.1038/s41467-022-30695-9; the files
    at http://medicaldecathlon.com. MONAI's data lists are of the same form.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from pipeline.errors import ManifestError
from pipeline.manifest.case import Case, Channel, Manifest, SplitName, guess_modality, name_case
from pipeline.manifest.faults import fit
from pipeline.manifest.rules import (
    DataFolder,
    check_channel_form,
    collect_cases,
    foreground_labels,
    is_number,
)
from pipeline.system.text import shown


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)

    image: str | tuple[str, ...] = Field(description="One file, or one for each channel.")
    label: str | None = Field(default=None, description="The reference label map.")


class _DecathlonFile(BaseModel):
    """What is read of a `dataset.json`; whatever else a data set notes there is left alone."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(default="", description="Name of the data set.")
    description: str = Field(default="", description="What it shows.")
    reference: str = Field(default="", description="Where it comes from.")
    licence: str = Field(default="", validation_alias=AliasChoices("licence", "license"))
    modality: dict[str, str] = Field(min_length=1, description="Channel number to its modality.")
    labels: dict[str, str] = Field(default_factory=dict, description="Label value to its name.")
    training: tuple[_Entry, ...] = Field(default=(), description="Cases to train with.")
    validation: tuple[_Entry, ...] = Field(default=(), description="Cases to validate with.")
    test: tuple[str | _Entry, ...] = Field(default=(), description="Cases without labels.")


def read_decathlon(data: dict[str, object], path: Path, folder: DataFolder) -> Manifest:
    """Return the manifest that a Decathlon `dataset.json` describes.

    Entries whose file name begins with `._` are left out: macOS puts such files, which are no
    images, into the archives that it makes.

    Args:
        data: Content of the file.
        path: The file.
        folder: That the file's paths are relative to.

    Raises:
        ManifestError: If the content does not hold; names the key.
    """
    check_channel_form(data.get("modality"), f"{path}: modality")
    _check_label_form(data.get("labels"), path)
    file = fit(_DecathlonFile, data, path)
    channels = tuple(
        Channel(name, guess_modality(name))
        for _, name in sorted(_numbered(file.modality, f"{path}: modality"))
    )
    # Whatever the data set calls value 0 ("background", "unlabelled"), it is the background.
    values = [(name, value) for value, name in _numbered(file.labels, f"{path}: labels") if value]
    placed = [
        *_cases(file.training, "training", path, folder, "train" if file.validation else None),
        *_cases(file.validation, "validation", path, folder, "validation"),
        *_cases(file.test, "test", path, folder, "test"),
    ]
    return Manifest(
        path=path,
        name=file.name or path.resolve().parent.name,
        description=file.description,
        origin=file.reference,
        licence=file.licence,
        channels=channels,
        labels=foreground_labels(values, f"{path}: labels"),
        cases=collect_cases(placed, path, num_channels=len(channels)),
    )


def _check_label_form(entries: object, path: Path) -> None:
    if not isinstance(entries, dict):
        return
    for name, value in entries.items():
        if is_number(value) and not is_number(name):
            found = f"names and values are swapped: {name!r}: {value!r}"
            remedy = (
                "A Decathlon dataset.json wants VALUE: NAME; one of nnU-Net v2, where it is the "
                "other way round, has channel_names."
            )
            raise ManifestError(f"{path}: labels", found, remedy)


def _numbered(texts: dict[str, str], where: str) -> list[tuple[int, str]]:
    for key in texts:
        if not is_number(key):
            raise ManifestError(
                where,
                f"key {shown(key)} is not a number",
                'Write {"number": "name"}, such as {"1": ...}.',
            )
    return [(int(key), name) for key, name in texts.items()]


def _cases(
    entries: Sequence[str | _Entry],
    key: str,
    path: Path,
    folder: DataFolder,
    split: SplitName | None,
) -> list[tuple[str, Case]]:
    placed = []
    for index, item in enumerate(entries):
        where = f"{path}: {key}[{index}]"
        entry = _Entry(image=item) if isinstance(item, str) else item
        listed = (entry.image,) if isinstance(entry.image, str) else entry.image
        if not listed or not all(listed):
            raise ManifestError(where, "no image file is named", "Name it, or remove the entry.")
        images = tuple(folder.locate(image, where) for image in listed)
        if images[0].name.startswith("._"):
            continue
        name = name_case(images)
        label = folder.locate(entry.label, where) if entry.label else None
        placed.append((where, Case(name, images, label, subject=name, split=split)))
    return placed
