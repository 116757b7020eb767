import numpy as np
import pytest
import torch

from pipeline.errors import StudyError
from pipeline.inference import NotEnoughMemory
from pipeline.refinement.inputs import open_inputs
from pipeline.refinement.room import BAND_BYTES, BOX_BYTES, Room, band_bytes
from pipeline.system.memory import resident_bytes


@pytest.fixture
def headers(case):
    request = case.request()
    return open_inputs(request.images, request.segmentation, "labels")


def test_a_slab_by_hand():
    classes = np.zeros((20, 10, 10), np.uint8)
    classes[:10] = 1
    # One face of 100 voxels, 3 mm to each side of it; the box with its margin of 4 voxels.
    wanted = BAND_BYTES * 100 * 6 + BOX_BYTES * 18 * 100
    assert band_bytes(classes, (1, 1, 1), band_mm=3) == wanted
    assert band_bytes(np.zeros((2, 3, 4), np.uint8), (1, 1, 1), band_mm=3) == 0


def test_reading_and_the_band_are_refused_beforehand(headers):
    room = Room(headers, torch.device("cpu"), 10**6)
    classes = np.ones((20, 18, 16), np.uint8)
    for check in (room.check_reading, lambda: room.check_band(classes, 4)):
        with pytest.raises(StudyError, match=r"labels.nii.gz: .* GB of memory, but only 0.00 GB"):
            check()
    enough = Room(headers, torch.device("cpu"), None)
    enough.check_reading()
    enough.check_band(classes, 4)
    assert enough.left_bytes() > 0


def test_what_is_left_is_what_the_process_has_not_taken(headers):
    room = Room(headers, torch.device("cpu"), resident_bytes() + 2**30)
    assert room.left_bytes() == pytest.approx(2**30, rel=0.2)


def test_refusals_of_the_field_get_a_remedy(headers):
    room = Room(headers, torch.device("cpu"), None)
    with pytest.raises(StudyError, match="larger theta_position_mm"), room.refusals():
        raise NotEnoughMemory(10**12, 10**9)
    with pytest.raises(StudyError, match="--device cpu"), room.refusals():
        raise torch.OutOfMemoryError("")
