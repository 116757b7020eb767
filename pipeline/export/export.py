"""Write a model in the format of another tool, all of it or nothing."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.export.bundle import write_bundle
from pipeline.export.onnx import write_onnx
from pipeline.export.readme import left_out
from pipeline.model import Model
from pipeline.system.files import atomic_folder

logger = logging.getLogger(__name__)

FORMATS: Mapping[str, Callable[[Model, Path], None]] = {
    "bundle": write_bundle,
    "onnx": write_onnx,
}


def export_model(model: Model, to: str, out: Path) -> None:
    """Write a model to a new folder.

    Args:
        model: On the CPU.
        to: One of `FORMATS`.
        out: The folder; it appears only when it is complete.

    Raises:
        ConfigError: If there is something in the folder already, there is no such format, or a
            package that it needs is missing.
        ModelError: If the model cannot be exported.
    """
    if to not in FORMATS:
        raise ConfigError("--to", f"there is no format {to!r}", f"Use {' or '.join(FORMATS)}.")
    _check_free(out)
    # A link to an empty folder stays one.
    with atomic_folder(out.resolve()) as temporary:
        FORMATS[to](model, temporary)
    for what in left_out(model.description):
        logger.warning("%s does not carry %s; see its README", out, what)


def _check_free(out: Path) -> None:
    remedy = "Choose a new folder with --out."
    if out.is_dir():
        found = sorted(out.rglob("*"), key=lambda path: (path.is_dir(), path))
        if found:
            raise ConfigError(found[0], "lies where the model would be written", remedy)
    elif os.path.lexists(out):
        raise ConfigError(out, "exists already", remedy)
