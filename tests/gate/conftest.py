from dataclasses import replace

import numpy as np
import pytest

from pipeline.fingerprint import take_fingerprint
from pipeline.gate import AdmissionConfig, admit
from pipeline.phantom.cohort import make_study
from pipeline.study import Study, read_study
from pipeline.study.header import header_from_grid
from pipeline.transforms.orientation import ras_grid, ras_view
from pipeline.volume import LabelMap, Volume

NUM_TRAINING = 16


def as_study(volume, modality=None):
    return Study("case", volume, header_from_grid(volume.grid), (), (), modality)


def make_volume(kind, index):
    scan = make_study(kind, 7, index)
    return Volume(scan.data_CIJK.astype(np.float32), scan.grid.affine)


def fingerprint_of(volumes):
    def ones(volume):
        return LabelMap(np.ones(volume.data_CIJK.shape[1:], np.uint8), volume.affine)

    return take_fingerprint([(volume, ones(volume)) for volume in volumes], 0)


@pytest.fixture(scope="session")
def ct():
    """Phantom CT: a fingerprint, and studies that it has not seen."""
    volumes = [make_volume("ct", n) for n in range(NUM_TRAINING + 4)]
    return fingerprint_of(volumes[:NUM_TRAINING]), volumes[NUM_TRAINING:]


@pytest.fixture(scope="session")
def mr():
    """The same of MR heads with two channels, which are symmetric."""
    volumes = [make_volume("mr", n) for n in range(NUM_TRAINING + 2)]
    return fingerprint_of(volumes[:NUM_TRAINING]), volumes[NUM_TRAINING:]


@pytest.fixture(scope="session")
def good_ct(ct):
    """One of them, with its voxels along R, A, S."""
    volume = ct[1][0]
    data = np.stack([ras_view(channel, volume.affine) for channel in volume.data_CIJK])
    return Volume(np.ascontiguousarray(data), ras_grid(volume.grid).affine)


@pytest.fixture(scope="session")
def ask_ct(ct):
    """Ask the gate of the CT model about voxels, or a whole volume; findings by check."""

    def ask(volume, modality=None, fingerprint=ct[0], mirror_axes=(), **settings):
        found = admit(
            as_study(volume, modality),
            fingerprint,
            ["CT"],
            AdmissionConfig(**settings),
            mirror_axes=mirror_axes,
        )
        return {finding.check: finding for finding in found}

    return ask


@pytest.fixture(scope="session")
def ask_mr(mr):
    def ask(volume, modality=None, schemes=(), fingerprint=mr[0]):
        config = AdmissionConfig()
        study = as_study(volume, modality)
        found = admit(study, fingerprint, ["MR", "MR"], config, schemes=schemes)
        # Of two findings of a check, the one that comes first.
        return {finding.check: finding for finding in reversed(found)}

    return ask


@pytest.fixture(scope="session")
def changed():
    """Change the voxels of a volume and leave its header as it is."""

    def change(volume, function):
        return replace(volume, data_CIJK=np.ascontiguousarray(function(volume.data_CIJK.copy())))

    return change


@pytest.fixture(scope="session")
def real_heads(shared_data):
    """Split the 200 hippocampus studies in five: the fingerprint of four parts, and the fifth."""
    paths = sorted((shared_data / "Task04_Hippocampus" / "imagesTr").glob("hippo*.nii.gz"))
    studies = [read_study([path], case=path.name, num_channels=1) for path in paths]

    def split(fold):
        training = [study.volume for n, study in enumerate(studies) if n % 5 != fold]
        return fingerprint_of(training), studies[fold::5]

    return split
