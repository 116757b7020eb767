import hashlib
import json
import platform
from datetime import UTC, datetime, timedelta

import nibabel
import numpy as np
import pytest
import torch
from pydantic import ValidationError

import pipeline
from pipeline.output import (
    FileRecord,
    GridRecord,
    Provenance,
    Recipe,
    Timing,
    environment,
    hash_settings,
    read_provenance,
    write_provenance,
)
from pipeline.volume import Grid


@pytest.fixture
def mask(tmp_path):
    path = tmp_path / "a_seg.nii.gz"
    path.write_bytes(b"mask")
    return path


@pytest.fixture
def provenance(mask):
    return Provenance(
        case="a",
        recipe=Recipe(
            inputs=(FileRecord(name="a.nii.gz", sha256="0" * 64),),
            model=FileRecord(name="liver", sha256="1" * 64),
            settings={"inference": {"overlap": 0.5, "window": [96, 96, 64]}},
        ),
        outputs={"mask": FileRecord.of(mask)},
        labels={"liver": 1},
        volumes_ml={"liver": 1503.2},
        grid=GridRecord.of(Grid((4, 5, 6), np.diag([-1.0, 1.0, 2.5, 1.0]))),
        warnings=("qform and sform disagree",),
        timing=Timing.of({"load": 0.1, "network": 0.3}, 120),
        device="cpu",
    )


def test_what_is_read_is_what_was_written(tmp_path, provenance):
    write_provenance(provenance, tmp_path / "a.json")
    assert read_provenance(tmp_path / "a.json") == provenance


def test_a_sidecar_holds_the_provenance_among_keys_of_others(tmp_path, provenance):
    write_provenance(provenance, tmp_path / "a.json", {"Manual": False})
    data = json.loads((tmp_path / "a.json").read_text())
    assert data == {"Manual": False, "Trivox": json.loads(provenance.model_dump_json())}
    assert read_provenance(tmp_path / "a.json") == provenance


def test_the_file_says_it_all_in_plain_json(tmp_path, provenance):
    write_provenance(provenance, tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text())
    assert set(data) == {
        "case", "recipe", "outputs", "labels", "volumes_ml", "grid", "warnings", "admission",
        "timing", "memory_gb", "device", "arithmetic", "versions", "created_utc",
        "configuration_sha256", "postprocessing", "seeds", "environment", "regions", "scoring",
        "mask_voxels_sha256", "incomplete",
    }  # fmt: skip
    assert data["grid"] == {
        "shape": [4, 5, 6],
        "spacing_mm": [1.0, 1.0, 2.5],
        "axis_codes": "LAS",
    }
    assert data["outputs"]["mask"] == {
        "name": "a_seg.nii.gz",
        "sha256": hashlib.sha256(b"mask").hexdigest(),
    }
    assert data["timing"] == {
        "seconds": {"load": 0.1, "network": 0.3},
        "voxels_per_s": {"load": 1200, "network": 400, "total": 300},
    }
    assert data["versions"]["trivox"] == pipeline.__version__
    assert data["versions"]["numpy"] == np.__version__
    assert data["versions"]["nibabel"] == nibabel.__version__
    assert set(data["versions"]) == {
        "trivox", "torch", "monai", "numpy", "nibabel", "scipy", "connected-components-3d",
        "SimpleITK", "numba",
    }  # fmt: skip


def test_what_earlier_versions_wrote_is_read(tmp_path, provenance):
    data = json.loads(provenance.model_dump_json(exclude={"regions", "scoring"}))
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert read_provenance(tmp_path / "a.json") == provenance


def test_equal_settings_have_equal_hashes():
    """The value is that of `printf '{"a":[1,2.5],"b":{"c":null}}' | sha256sum`."""
    settings = {"b": {"c": None}, "a": [1, 2.5]}
    expected = hashlib.sha256(b'{"a":[1,2.5],"b":{"c":null}}').hexdigest()
    assert hash_settings(settings) == expected
    assert hash_settings({"a": [1, 2.5], "b": {"c": None}}) == expected
    assert hash_settings({"a": [2.5, 1], "b": {"c": None}}) != expected


def test_the_environment_tells_the_kind_of_machine_and_not_which():
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["threads"] == torch.get_num_threads()
    assert set(found) == {"python", "platform", "instructions", "threads"}
    assert platform.node() not in " ".join(map(str, found.values()))


def test_a_provenance_of_an_earlier_version_is_read(tmp_path, provenance):
    data = json.loads(provenance.model_dump_json())
    for key in ("configuration_sha256", "postprocessing", "seeds", "environment"):
        del data[key]
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert read_provenance(tmp_path / "a.json") == provenance


def test_the_time_is_utc(provenance):
    created = datetime.fromisoformat(provenance.created_utc)
    assert created.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)


def test_a_missing_file_is_no_provenance(tmp_path):
    assert read_provenance(tmp_path / "a.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"case": "a"}'])
def test_a_torn_file_is_no_provenance(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert read_provenance(tmp_path / "a.json") is None


def test_every_cut_of_the_file_is_no_provenance(tmp_path, provenance):
    path = tmp_path / "a.json"
    write_provenance(provenance, path)
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        assert read_provenance(path) is None


def test_unknown_fields_are_no_provenance(tmp_path, provenance):
    data = json.loads(provenance.model_dump_json()) | {"surprise": 1}
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert read_provenance(tmp_path / "a.json") is None


def test_intact_means_recorded_present_and_unchanged(provenance, mask):
    assert provenance.is_intact({"mask": mask})
    assert provenance.is_intact({})
    assert not provenance.is_intact({"mask": mask, "probabilities": mask})
    assert not provenance.is_intact({"mask": mask.with_name("b_seg.nii.gz")})
    mask.write_bytes(b"mas")
    assert not provenance.is_intact({"mask": mask})
    mask.unlink()
    assert not provenance.is_intact({"mask": mask})


def test_a_recipe_differs_by_each_of_its_parts(provenance):
    recipe = provenance.recipe
    other = FileRecord(name="a.nii.gz", sha256="2" * 64)
    for change in ({"inputs": (other,)}, {"model": other}, {"settings": {}}):
        assert recipe.model_copy(update=change) != recipe


def test_an_unknown_kind_of_output_is_a_mistake(provenance):
    data = provenance.model_dump() | {"outputs": {"masc": {"name": "x", "sha256": ""}}}
    with pytest.raises(ValidationError, match="masc"):
        Provenance.model_validate(data)


def test_timing_in_words_and_stages_that_took_no_time():
    timing = Timing.of({"load": 0.5, "network": 1.5, "write": 0.0}, 3_000_000)
    expected = "2.00 s (load 0.50, network 1.50, write 0.00), 1.50 million voxels/s"
    assert timing.in_words() == expected
    assert set(timing.voxels_per_s) == {"load", "network", "total"}
