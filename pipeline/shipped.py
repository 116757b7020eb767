"""Find the configurations and manifests that come with Trivox, however it was installed."""

import os
from pathlib import Path

CONFIGS, MANIFESTS = "configs", "data_manifests"

_PACKAGE = Path(__file__).parent
_HOMES = (_PACKAGE, _PACKAGE.parent)
"""A wheel has both folders inside of the package, a checkout has them beside it."""


def find_shipped(path: Path, folder: str) -> Path:
    """Return `path` if it is there, else the file of that name that comes with Trivox.

    Args:
        path: What the user named: any path, or a name such as `phantom_ct` or
            `configs/phantom_ct.yaml`.
        folder: `CONFIGS` or `MANIFESTS`.

    Returns:
        `path` itself if nothing of that name comes with Trivox.
    """
    if path.exists() or path.parent not in (Path(), Path(folder)):
        return path
    name = path.name if path.suffix == ".yaml" else f"{path.name}.yaml"
    return next((home / folder / name for home in _HOMES if (home / folder / name).is_file()), path)


def is_shipped(path: Path, folder: str) -> bool:
    """Tell whether a file is one that comes with Trivox, and not somebody's copy of it."""
    homes = [Path(os.path.realpath(home / folder)) for home in _HOMES]
    return Path(os.path.realpath(path)).parent in homes


def names_shipped(folder: str) -> list[str]:
    """Return the names that `find_shipped` knows, without suffix."""
    return sorted({file.stem for home in _HOMES for file in (home / folder).glob("*.yaml")})
