"""Bundles are run as their README says, where Trivox and the network are out of reach."""

import json
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.export.bundle import write_bundle
from pipeline.inputs import find_studies
from pipeline.manifest import Region
from pipeline.postprocessing import Rule
from pipeline.transforms import ChannelNormalisation

CT = ChannelNormalisation(kind="ct", low=-200, high=400, mean=100, std=100)
MR = ChannelNormalisation(kind="mr")
MOST_TIES = 1e-3
"""Share of voxels; networks of random weights are undecided in more than trained ones."""
REGIONS = (Region("whole", ("organ", "lesion"), "organ"), Region("core", ("lesion",), "lesion"))
NO_NETWORK = """
import socket

def refuse(*_):
    raise OSError("no network here")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""
# Neither Trivox nor what only Trivox needs.
NOT_INSTALLED = ("pipeline", "pydantic", "cc3d", "ignite", "SimpleITK", "safetensors")


@pytest.fixture
def run_bundle(tmp_path):
    """Run a bundle in a process that has only what its README names."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sitecustomize.py").write_text(NO_NETWORK)
    for name in NOT_INSTALLED:
        (elsewhere / f"{name}.py").write_text(f"raise ImportError('{name} is not installed')")

    def run(bundle, scans, masks):
        command = "-m monai.bundle run --config_file configs/inference.json --dataset_dir"
        return subprocess.run(
            [sys.executable, *command.split(), str(scans), "--output_dir", str(masks)],
            cwd=bundle,
            env={"PYTHONPATH": str(elsewhere), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def segment(model, scans, masks):
    studies = find_studies([scans], num_channels=len(model.description.channels), out=masks)
    return segment_cohort(studies, model, masks, SegmentOptions(), torch.device("cpu"))


def assert_same_masks(found, expected):
    names = sorted(path.name for path in expected.glob("*_seg.nii.gz"))
    assert sorted(path.name for path in found.iterdir()) == names
    for name in names:
        ours, theirs = nib.load(expected / name), nib.load(found / name)
        np.testing.assert_array_equal(theirs.affine, ours.affine)
        assert theirs.header["qform_code"] == ours.header["qform_code"]
        labels = np.asarray(ours.dataobj)
        assert set(np.unique(labels)) == {0, 4, 9}
        # Where two labels are as probable, rounding decides, and that depends on the order of sums.
        assert np.mean(np.asarray(theirs.dataobj) != labels) <= MOST_TIES


def test_masks_of_an_ensemble_are_those_of_segment(make_model, save_study, run_bundle, tmp_path):
    """Two channels of unlike scales, two members, mirrored windows, clean-up."""
    rules = (Rule(label="organ", keep_largest=1),)
    model = make_model(channels=(CT, MR), members=2, mirror_axes=("R", "A"), rules=rules)
    for channel in range(2):
        save_study(tmp_path / "scans" / f"case_000{channel}.nii.gz", seed=channel)
    write_bundle(model, tmp_path)
    finished = run_bundle(tmp_path, tmp_path / "scans", tmp_path / "found")
    assert finished.returncode == 0, finished.stderr
    segment(model, tmp_path / "scans", tmp_path / "expected")
    assert_same_masks(tmp_path / "found", tmp_path / "expected")


def test_regions_and_a_study_that_cannot_be_read(make_model, save_study, run_bundle, tmp_path):
    model = make_model("light_unet", regions=REGIONS)
    scans = tmp_path / "scans"
    save_study(scans / "below" / "b.nii.gz", seed=1)
    save_study(scans / "c.nii", seed=2, affine=np.diag([2.0, 2.0, 1.0, 1.0]))
    (scans / "a.nii.gz").write_bytes(b"torn")
    write_bundle(model, tmp_path)
    finished = run_bundle(tmp_path, scans, tmp_path / "found")
    assert finished.returncode == 1
    assert "study 1 of 3: " in finished.stderr
    assert "1 of 3 studies have no mask" in finished.stderr
    segment(model, scans, tmp_path / "expected")
    assert_same_masks(tmp_path / "found", tmp_path / "expected")


def test_metadata_is_that_of_the_model_for_one_window(make_model, tmp_path):
    write_bundle(make_model(), tmp_path)
    metadata = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["spatial_shape"] == [16, 16, 8]
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 3
    assert set(metadata["required_packages_version"]) == {"nibabel", "scipy"}
    assert metadata["trivox"]["labels"] == {"organ": 4, "lesion": 9}


EVIL = "$__import__('pathlib').Path('MARKER').touch()"


def test_no_name_of_a_model_becomes_code(make_model, tmp_path, monkeypatch):
    model = make_model(channels=(CT, MR))
    names = ("@network", "%configs/inference.json")
    described = model.description.model_copy(
        update={
            "name": EVIL,
            "labels": {EVIL: 4, "_target_": 9, "vertebra #3": 10, "a@::::::::b": 11},
            "channels": tuple(
                channel.model_copy(update={"name": name})
                for channel, name in zip(model.description.channels, names, strict=True)
            ),
            "training": {"_target_": "os.system", "command": "touch MARKER", "data": EVIL},
        }
    )
    write_bundle(replace(model, description=described), tmp_path)
    monkeypatch.chdir(tmp_path)
    workflow = ConfigWorkflow(
        config_file="configs/inference.json",
        meta_file="configs/metadata.json",
        workflow_type="inference",
        logging_file=False,
    )
    workflow.initialize()
    outputs = workflow.parser.get_parsed_content("_meta_::network_data_format::outputs")
    assert list(outputs["pred"]["channel_def"].values()) == [
        "background", EVIL, "_target_", "vertebra #3", "a@::::::::b"
    ]  # fmt: skip
    assert tuple(workflow.channel_def.values()) == tuple(outputs["pred"]["channel_def"].values())
    # All of it, not only what MONAI asks for by itself.
    everything = workflow.parser.get_parsed_content("_meta_")
    inputs = everything["network_data_format"]["inputs"]["image"]["channel_def"]
    assert tuple(inputs.values()) == names
    assert everything["trivox"]["name"] == EVIL
    assert everything["trivox"]["labels"][0] == [EVIL, 4]
    assert ["data", EVIL] in everything["trivox"]["training"]
    assert not (tmp_path / "MARKER").exists()
