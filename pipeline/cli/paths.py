"""The paths that words of the command line name: made independent of the current folder, once."""

import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigError


def to_write(text: str) -> Path:
    """Return the absolute path of what a verb writes; links in it stay.

    Raises:
        ArgumentTypeError: If the word is empty, as one of an unset variable is.
    """
    if not text.strip():
        raise ArgumentTypeError("the path is empty: name a file or folder, such as ./results")
    return Path(text).absolute()


def to_read(text: str) -> Path:
    """Return the absolute path of what a verb reads; links in it stay, and give the names.

    What is not there stays as it was typed: it may be the name of something that comes with
    Trivox, and if it is not, messages show what was typed.

    Raises:
        ArgumentTypeError: As for `to_write`.
    """
    path = to_write(text)
    return path if os.path.lexists(path) else Path(text)


def to_run(text: str) -> str:
    """Return a program: the absolute path of one that is named by a path, or its name alone.

    Raises:
        ArgumentTypeError: As for `to_write`.
    """
    return str(to_write(text)) if os.sep in text else text


def add_replace(parser: ArgumentParser) -> None:
    """Add the word that lets a verb write where something lies."""
    parser.add_argument(
        "--replace",
        action="store_true",
        help="write where a file lies already; that one moves to .trivox/replaced/ in its folder",
    )


def check_root(inputs: Sequence[Path], root: Path | None) -> bool:
    """Tell whether there is a manifest among inputs, which alone takes a root.

    Raises:
        ConfigError: If a root is given and there is none.
    """
    from pipeline.manifest import is_manifest

    with_manifest = any(is_manifest(path) for path in inputs)
    if root is not None and not with_manifest:
        raise ConfigError("--root", "there is no manifest to look for data of", "Leave it out.")
    return with_manifest
