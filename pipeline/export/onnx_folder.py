"""A model as an ONNX network beside a declaration of what must happen before and after it.

DIR/network.onnx           windows to logits; members and mirrored windows inside
DIR/preprocessing.json     see `pipeline.export.spec`
DIR/README.md              the same in words
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.export.graph import export_graph
from pipeline.export.readme import onnx_readme
from pipeline.export.spec import onnx_spec
from pipeline.model import Model

PACKAGES = ("onnx", "onnxscript")


def write_onnx(model: Model, folder: Path) -> None:
    """Write a model as ONNX into an empty folder.

    Raises:
        ConfigError: If a package is missing.
        ModelError: If the networks cannot be exported.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        found = f"this needs the package {missing[0]}"
        raise ConfigError("--to onnx", found, "Install it: pip install 'trivox[export]'.")
    description = model.description
    _write_network(model, folder / "network.onnx")
    spec = json.dumps(onnx_spec(description), indent=2)
    (folder / "preprocessing.json").write_text(spec, encoding="utf-8")
    (folder / "README.md").write_text(onnx_readme(description), encoding="utf-8")


def _write_network(model: Model, path: Path) -> None:
    program = export_graph(model)
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                dynamo=True,
                verbose=False,
            )
    # What torch cannot translate it reports in many ways.
    except Exception as error:
        name = model.description.network.name
        first_line = str(error).strip().partition("\n")[0]
        found = f"torch cannot write {name} as ONNX ({first_line[:200]})"
        raise ModelError(model.description.name, found, "Use --to bundle instead.") from error
    if exported is None:
        raise ValueError("torch.onnx.export returned nothing")
    exported.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself, and about packages not needed, to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
