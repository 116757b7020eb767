import numpy as np
import pytest

from pipeline.evaluation.aggregate import (
    mask_of,
    scored_structures,
    values_by_name,
    without_ignored,
)
from pipeline.manifest import Region
from pipeline.volume import LabelMap

LABELS = {"edema": 1, "core": 4}
REGIONS = (Region("whole", ("edema", "core"), "edema"), Region("core", ("core",), "core"))


def line(*values):
    return LabelMap(np.array(values, np.uint8).reshape(-1, 1, 1), np.eye(4))


def test_labels_are_scored_where_they_are_annotated():
    assert scored_structures(LABELS) == LABELS
    assert scored_structures(LABELS, annotated=("core",)) == {"core": 4}


def test_regions_are_scored_where_all_their_labels_are_annotated():
    assert scored_structures(LABELS, REGIONS) == {"whole": (1, 4), "core": (4,)}
    assert scored_structures(LABELS, REGIONS, ("core",)) == {"core": (4,)}


def test_ignored_voxels_become_background_in_copies():
    prediction, reference = line(1, 1, 2, 0), line(1, 255, 255, 2)
    cleared = without_ignored(prediction, reference, 255)
    assert [part.labels_IJK.ravel().tolist() for part in cleared] == [[1, 0, 0, 0], [1, 0, 0, 2]]
    assert {part.labels_IJK.dtype for part in cleared} == {np.dtype(np.uint8)}
    assert prediction.labels_IJK.ravel().tolist() == [1, 1, 2, 0]


@pytest.mark.parametrize("ignore_value", [None, 255])
def test_nothing_is_copied_where_nothing_is_ignored(ignore_value):
    pair = line(1, 2), line(1, 1)
    assert without_ignored(*pair, ignore_value) == pair


def test_values_and_masks():
    assert values_by_name({"a": 3, "b": (1, 2)}) == {"a": (3,), "b": (1, 2)}
    with pytest.raises(ValueError, match="within 1 and 65535"):
        values_by_name({"a": (1, 0)})
    labels = np.array([0, 1, 2, 3])
    assert mask_of(labels, (2,)).tolist() == [False, False, True, False]
    assert mask_of(labels, (1, 3)).tolist() == [False, True, False, True]
