"""What a process finds around it: a user, a home, an encoding, files that come with Trivox.

Containers and shared clusters leave some of it out, and libraries then end in a traceback, warn at
each start or write to where nobody may. All is set once, before any of them is loaded, and in the
environment, so that the processes that this one starts have it too.
"""

import atexit
import codecs
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from pipeline.errors import ConfigError

Environment = MutableMapping[str, str]

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where Python looks for the user's name before it asks the system."""

_MODE = 0o700


def prepare(environment: Environment) -> None:
    """Set what the processes that this one starts, and libraries that are not loaded yet, go by.

    Nothing that lies in the current folder is imported: Python puts that folder first for `-c` and
    `-m`, which is how processes start each other, and would run a user's own `pipeline.py` there in
    place of ours. Threads that wait for each other wait a shorter while before they give their core
    away, since where others want it, that while is lost. And cuBLAS, on a GPU, works in as much
    memory as it needs to add up in a fixed order, which it must know before it is first used.

    Raises:
        ConfigError: If there is no folder for temporary files.
    """
    environment["PYTHONSAFEPATH"] = "1"
    environment.setdefault("GOMP_SPINCOUNT", "1000")
    # Source: cuBLAS documentation, Results Reproducibility.
    environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _name_user(environment)
    _find_temporary(environment)
    _find_home(environment)


def speak_utf8(environment: Environment) -> None:
    """Start anew with UTF-8 where file names and output would be ASCII; let no character stop it.

    Returns only if nothing has to change. Names of files then are what they are for others.
    """
    is_ascii = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if is_ascii and environment.get("PYTHONUTF8") != "1":
        environment["PYTHONUTF8"] = "1"
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], dict(environment))
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _name_user(environment: Environment) -> None:
    """Name a user that the system has no name for, as `docker run --user 54321` makes one."""
    if any(environment.get(name) for name in _NAMES) or not hasattr(os, "getuid"):
        return
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        environment["USER"] = environment["LOGNAME"] = f"user{os.getuid()}"


def _find_temporary(environment: Environment) -> None:
    """Let all libraries use the folder for temporary files that Python finds."""
    try:
        found = tempfile.gettempdir()
    except OSError as error:
        where = environment.get("TMPDIR") or "TMPDIR"
        missing = "no folder for temporary files can be written to"
        raise ConfigError(where, missing, "Set TMPDIR to one that can.") from error
    if "TMPDIR" in environment and Path(environment["TMPDIR"]).absolute() != Path(found):
        environment["TMPDIR"] = found


def _find_home(environment: Environment) -> None:
    """Give libraries a place for what they keep, where the user's home is missing or read-only."""
    home = Path(environment.get("HOME") or _home_by_system())
    if not home.is_dir():
        # Libraries would make it.
        home = _own_folder()
        environment["HOME"] = str(home)
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    if _can_make(cache) and _can_make(config):
        return
    for name, folder in (("MPLCONFIGDIR", "matplotlib"), ("NUMBA_CACHE_DIR", "numba")):
        if not environment.get(name):
            environment[name] = str(_own_folder() / folder)


def _home_by_system() -> str:
    try:
        return str(Path.home())
    except RuntimeError:
        return "/nonexistent"


def _can_make(folder: Path) -> bool:
    """Tell whether a folder is there to be written to, or can be made."""
    with suppress(OSError):
        there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return False


def _own_folder() -> Path:
    """Return a folder for temporary files that only this user may write to, the same each time."""
    folder = Path(tempfile.gettempdir(), f"trivox-{os.getuid() if hasattr(os, 'getuid') else ''}")
    with suppress(OSError):
        folder.mkdir(mode=_MODE)
    with suppress(OSError):
        found = folder.lstat()
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if is_own and stat.S_IMODE(found.st_mode) == _MODE:
            return folder
    # Somebody else took its name.
    made = tempfile.mkdtemp(prefix="trivox-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


CONFIGS, MANIFESTS = "configs", "data_manifests"

_PACKAGE = Path(__file__).parent.parent
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
