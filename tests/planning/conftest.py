import numpy as np
import pytest

from pipeline.fingerprint import Fingerprint, take_fingerprint
from pipeline.fingerprint.fingerprint import LabelStatistics, Percentiles
from pipeline.manifest import Channel, Manifest
from pipeline.planning.search import list_spacings
from pipeline.planning.survey import Accuracy, Body, CloseLook, Survey
from pipeline.training import RunConfig
from pipeline.volume import LabelMap, Volume


@pytest.fixture
def make_survey():
    """A survey of equal cases, from numbers alone."""

    def make(spacing_mm, shape, num_cases=100, volume_ml=50.0, share=0.05, p10=None):
        labels = np.ones((2, 2, 2), np.uint8)
        volume = Volume(np.ones((1, 2, 2, 2), np.float32), np.eye(4))
        taken = take_fingerprint([(volume, LabelMap(labels, np.eye(4)))], seed=0)
        size = tuple(float(n * mm) for n, mm in zip(shape, spacing_mm, strict=True))
        label = LabelStatistics(value=1, num_cases=num_cases, volume_ml=(volume_ml,) * 3)
        fingerprint = Fingerprint(
            num_cases=num_cases,
            spacing_mm=spacing_mm,
            spacing_range_mm=(spacing_mm, spacing_mm),
            shape=shape,
            channels=taken.channels,
            spacing_percentiles_mm=Percentiles(
                p10=p10 or spacing_mm, p50=spacing_mm, p90=spacing_mm
            ),
            shape_percentiles=Percentiles(p10=shape, p50=shape, p90=shape),
            size_percentiles_mm=Percentiles(p10=size, p50=size, p90=size),
            labels=(label,),
        )
        return Survey(fingerprint, (Body(size, {1: (0.0, 0.0, 0.0)}, share),) * num_cases)

    return make


@pytest.fixture
def make_look():
    """What labels say that lose a share of their Dice by each mm that the voxels grow."""

    def make(survey, lost_per_mm=0.01, extent_mm=(50.0, 50.0, 50.0)):
        spacings = list_spacings(survey)
        finest = spacings[0][0]
        kept = (
            Accuracy(one, 1 - lost_per_mm * (one[0] - finest), one[0] - finest) for one in spacings
        )
        return CloseLook(tuple(kept), {1: extent_mm}, 6)

    return make


@pytest.fixture
def manifest(tmp_path):
    channels = (Channel("CT", "CT"),)
    return Manifest(tmp_path / "m.yaml", "toy", "", "", "", channels, {"liver": 1, "tumour": 2}, ())


@pytest.fixture
def toy_run():
    """A run of a small network on a patch of a given size; nothing of it is read."""

    def make(patch=(16, 16, 16), batch_size=2, features=(8, 16, 32)):
        return RunConfig.model_validate(
            {
                "name": "toy",
                "data": {"manifest": "m.yaml"},
                "network": {"features": features},
                "training": {
                    "patch_size": patch,
                    "batch_size": batch_size,
                    "max_minutes": 1,
                    "precision": "fp32",
                },
            }
        )

    return make
