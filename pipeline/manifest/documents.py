"""Turn what a file says into what it stands for, and every fault in it into one clear line."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import ManifestError
from pipeline.manifest.faults import first_fault
from pipeline.manifest.rules import nearest

Model = TypeVar("Model", bound=BaseModel)


def fit(model: type[Model], data: object, path: Path) -> Model:
    """Return `data` as a `model`.

    Raises:
        ManifestError: Names the first key that does not fit; an unknown key comes with the valid
            one nearest to it.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        fault = first_fault(error, model, data)
    if fault.kind == "unknown":
        remedy = nearest(fault.last, fault.valid)
        raise ManifestError(path, f"unknown key {fault.key!r}", remedy)
    if fault.kind == "missing":
        raise ManifestError(path, f"key {fault.key!r} is missing", "Add it.")
    found = f"{fault.key!r} is {fault.given}" if fault.given else f"{fault.key!r} does not fit"
    raise ManifestError(path, found, f"It {fault.wanted}.")
