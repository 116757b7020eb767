import pytest
from pydantic import BaseModel, ConfigDict

from pipeline.errors import ManifestError
from pipeline.manifest.faults import fit


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    size: int = 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x", "sise": 1}, r"a.yaml: unknown key 'sise'\. Did you mean 'size'\?"),
        ({}, "a.yaml: key 'name' is missing. Add it"),
        ({"name": "x", "size": "y"}, "a.yaml: 'size' is 'y'. It should be a whole number"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, data, message):
    with pytest.raises(ManifestError, match=message):
        fit(Thing, data, tmp_path / "a.yaml")


def test_what_fits_is_returned(tmp_path):
    assert fit(Thing, {"name": "x"}, tmp_path) == Thing(name="x", size=1)
