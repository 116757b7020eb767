"""The description of a model of two channels, nothing in it as by default."""

from pipeline.fingerprint import Fingerprint
from pipeline.inference import InferenceConfig
from pipeline.model import ChannelDescription, ModelDescription
from pipeline.network import NetworkConfig
from pipeline.postprocessing import PostprocessingConfig, Rule
from pipeline.study import StudyConfig
from pipeline.transforms import ChannelNormalisation, Preprocessing


def describe(**changes):
    fields = {
        "name": "test",
        "channels": (
            ChannelDescription(name="venous", modality="CT"),
            ChannelDescription(name="T1", modality="MR"),
        ),
        "labels": {"spleen": 7, "liver": 3},
        "study": StudyConfig(),
        "preprocessing": Preprocessing(
            spacing_mm=(1.5, 1.5, 1 / 3),
            crop_margin_mm=5,
            channels=(
                ChannelNormalisation(kind="ct", low=-100, high=300, mean=50, std=1 / 7),
                ChannelNormalisation(kind="mr"),
            ),
        ),
        "network": NetworkConfig(features=(2, 4, 4)),
        "inference": InferenceConfig(window=(8, 8, 12)),
        "postprocessing": PostprocessingConfig(rules=(Rule(label="liver", keep_largest=1),)),
        "fingerprint": Fingerprint(
            num_cases=2,
            spacing_mm=(1, 1, 1),
            spacing_range_mm=((1, 1, 1), (1, 1, 2)),
            shape=(9, 9, 9),
            channels=(),
        ),
        "training": {"data": "phantom", "seed": 3},
    }
    return ModelDescription(**(fields | changes))
