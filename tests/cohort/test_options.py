from pathlib import Path

from pipeline.cohort.options import SegmentOptions
from pipeline.cohort.outputs import Outputs


def test_a_study_must_have_what_was_asked_for():
    outputs = Outputs(Path("out"), "a")
    assert SegmentOptions().wanted(outputs) == {"mask": outputs.mask}
    assert SegmentOptions(probabilities=True, pictures=True).wanted(outputs) == {
        "mask": outputs.mask,
        "probabilities": outputs.probabilities,
        "picture": outputs.picture,
    }
