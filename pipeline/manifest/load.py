"""Load a data set's description, whichever of the known forms it has."""

from pathlib import Path

from pipeline.errors import ManifestError
from pipeline.manifest.case import Channel, Manifest
from pipeline.manifest.decathlon import read_decathlon
from pipeline.manifest.nnunet import read_nnunet
from pipeline.manifest.rules import DataFolder, check_names
from pipeline.manifest.table import read_table
from pipeline.manifest.yaml_manifest import (
    SET_ROOT,
    declared_channels,
    describe,
    locate_cases,
    read_manifest_file,
)
from pipeline.study import VOLUME_SUFFIXES
from pipeline.system.documents import read_json
from pipeline.system.surroundings import MANIFESTS, find_shipped

LIST = "dataset.json"
"""How nnU-Net and the Decathlon call the description of a data set."""

_KEYS = frozenset(("channel_names", "modality", "labels", "training", "file_ending"))
"""Of the data sets that are known."""

_SUFFIXES = (".json", ".yaml", ".yml", ".csv")


def is_manifest(path: Path) -> bool:
    """Tell whether `path` describes a data set, as opposed to being a study or a folder of some.

    A folder of studies stays one if it has a `dataset.json` that nobody can read, or that is
    something else of the same name.
    """
    path = find_shipped(path, MANIFESTS)
    if path.is_dir():
        return (path / LIST).is_file() and not _has_studies_alone(path)
    return path.suffix.lower() in _SUFFIXES


def load_manifest(path: Path, root: Path | None = None, *, allow_outside: bool = False) -> Manifest:
    """Return the manifest that a file or a folder describes.

    No image is opened, and none needs to exist: `check_manifest` looks at those.

    Args:
        path: A Trivox manifest (`.yaml`), a CSV, the `dataset.json` of a Decathlon task or of an
            nnU-Net v2 raw folder, or a folder that has such a `dataset.json`.
        root: Folder that relative paths start from. By default the one that a Trivox manifest
            names, and else the folder of the file.
        allow_outside: Whether files, and the folder that a Trivox manifest names, may lie
            elsewhere. Only the user can permit it, not the manifest.

    Raises:
        ManifestError: If something is missing or does not hold, or a file lies outside the data
            folder and may not; names the file and row or key.
    """
    if root is not None and not root.is_dir():
        raise ManifestError(root, "the data folder does not exist", SET_ROOT)
    path = find_shipped(path, MANIFESTS)
    if not path.exists():
        raise ManifestError(path, "there is no such file or folder", "Check the path.")
    if path.suffix.lower() not in (".yaml", ".yml") or path.is_dir():
        folder = path if path.is_dir() else path.parent
        return check_names(_read_list(path, DataFolder(root or folder, allow_outside), None))
    file = read_manifest_file(path)
    source, data = locate_cases(file, path, root, allow_outside=allow_outside)
    return check_names(describe(_read_list(source, data, declared_channels(file)), file, path))


def _has_studies_alone(folder: Path) -> bool:
    try:
        names = [path.name.lower() for path in folder.iterdir()]
    except OSError:
        return False
    if not any(name.endswith(VOLUME_SUFFIXES) for name in names):
        return False
    return find_fault(folder / LIST, is_list=True) is not None


def find_fault(path: Path, *, is_list: bool) -> ManifestError | None:
    """Return why a file in JSON describes no data set at all; None if it describes one.

    Args:
        path: A `dataset.json`, or another description.
        is_list: Whether it must list a data set's channels, labels or cases.
    """
    try:
        content = read_json(path, ManifestError)
    except ManifestError as error:
        return error
    if is_list and _KEYS.isdisjoint(content):
        found = "it describes no data set: it has neither channel_names nor modality"
        return ManifestError(path, found, "Correct it, or call it something else.")
    return None


def _read_list(path: Path, folder: DataFolder, channels: tuple[Channel, ...] | None) -> Manifest:
    if path.is_dir():
        is_bids = (path / "dataset_description.json").is_file()
        path = path / LIST
        if not path.is_file() and is_bids:
            raise ManifestError(
                path.parent,
                "this is a folder in BIDS form: studies to segment",
                "Training needs a manifest that lists images and labels: see "
                "data_manifests/README.md.",
            )
        if not path.is_file():
            raise ManifestError(
                path.parent,
                "the folder has no dataset.json",
                "Name a folder that has one, or a .yaml, .csv or .json file.",
            )
    match path.suffix.lower():
        case ".csv":
            return read_table(path, folder, channels)
        case ".json":
            data = read_json(path, ManifestError)
            is_nnunet = "channel_names" in data
            return (read_nnunet if is_nnunet else read_decathlon)(data, path, folder)
        case suffix:
            raise ManifestError(
                path,
                f"{suffix or 'no suffix'} is no manifest's suffix",
                "Use .yaml, .csv or .json.",
            )
