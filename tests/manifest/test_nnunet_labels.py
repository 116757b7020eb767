from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Region
from pipeline.manifest.nnunet import read_nnunet_labels

PATH = Path("dataset.json")
BRATS = {
    "background": 0,
    "whole tumor": (1, 2, 3),
    "tumor core": (2, 3),
    "enhancing tumor": (3,),
}


def test_exclusive_labels():
    entries = {"background": 0, "edema": 2, "core": 1, "ignore": 3}
    assert read_nnunet_labels(entries, None, PATH) == ({"core": 1, "edema": 2}, 3, ())


def test_the_regions_of_brats():
    """As in nnU-Net's own documentation; value 3 has a name of its own, 1 and 2 do not."""
    labels, ignored, regions = read_nnunet_labels(BRATS, (1, 2, 3), PATH)
    assert labels == {"label 1": 1, "label 2": 2, "enhancing tumor": 3}
    assert ignored is None
    assert regions == (
        Region("whole tumor", ("label 1", "label 2", "enhancing tumor"), "label 1"),
        Region("tumor core", ("label 2", "enhancing tumor"), "label 2"),
        Region("enhancing tumor", ("enhancing tumor",), "enhancing tumor"),
    )


@pytest.mark.parametrize(
    ("changes", "order", "message"),
    [
        ({}, None, r"regions_class_order: the key is missing, and there are 3 regions. List"),
        ({}, (1, 2), "regions_class_order: the key has 2 values, and there are 3 regions"),
        ({}, (1, 2, 4), r"regions_class_order: no region has value 4. Use 1, 2, 3"),
        ({}, (1, 1, 3), "region 'tumor core' writes 'label 1', which is none of its labels"),
        ({}, (2, 2, 3), "regions 'whole tumor' and 'tumor core' both write 'label 2'"),
        ({"whole tumor": (0, 1, 2)}, (1, 2, 3), r"region 'whole tumor' holds background \(0\)"),
        ({"whole tumor": ()}, (1, 2, 3), "region 'whole tumor' has no values. List those"),
        ({"ignore": (4, 5)}, (1, 2, 3), "label 'ignore' has 2 values. Give ignored voxels one"),
        ({"ignore": 3}, (1, 2, 3), "ignored voxels and label 'enhancing tumor' both have"),
        ({"ignore": 0}, (1, 2, 3), "ignored voxels have the value 0. 0 is background"),
    ],
)
def test_what_does_not_hold_is_refused(changes, order, message):
    with pytest.raises(ManifestError, match=message):
        read_nnunet_labels({**BRATS, **changes}, order, PATH)
