import numpy as np
import pytest

from pipeline.fingerprint import Template
from pipeline.volume import Volume


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_are_told_where_the_anatomy_tells(ct, ask_ct, good_ct, changed, axis):
    """The phantom's liver, spine and lungs lie on one side each."""
    code = ["LAS", "RPS", "RAI"][axis]
    assert code in ct[0].look.template.votes
    found = ask_ct(changed(good_ct, lambda data: np.flip(data, axis + 1)))
    assert set(found) == {"flip"}
    words = ["left and right", "front and back", "head and feet"][axis]
    assert f"{words} seem to be exchanged" in found["flip"].found
    assert f"axes ran to {', '.join(code)}" in found["flip"].found
    assert found["flip"].verdict == "reject"


def test_a_flip_with_its_header_is_the_same_study(ask_ct, good_ct):
    """The header says so: nothing is wrong."""
    turn = np.diag([-1.0, 1, 1, 1])
    turn[0, 3] = good_ct.data_CIJK.shape[1] - 1
    flipped = Volume(np.ascontiguousarray(good_ct.data_CIJK[:, ::-1]), good_ct.affine @ turn)
    assert ask_ct(flipped) == {}


def test_exchanged_axes_are_told(ask_ct, good_ct, changed):
    found = ask_ct(changed(good_ct, lambda data: data.transpose(0, 2, 1, 3)))["flip"]
    assert found.verdict == "reject"
    assert found.found.startswith("the axes seem to be exchanged")


def test_a_model_trained_on_mirrored_patches_takes_mirrored_studies(ask_ct, good_ct, changed):
    flipped = changed(good_ct, lambda data: np.flip(data, 1))
    assert ask_ct(flipped, mirror_axes=("R",)) == {}
    upside_down = changed(good_ct, lambda data: np.flip(data, 3))
    assert "flip" in ask_ct(upside_down, mirror_axes=("R",))


def test_symmetric_heads_tell_nothing_and_nothing_is_said(mr, ask_mr, changed):
    assert not set(mr[0].look.template.votes) & {"LAS", "RPS", "RAI"}
    for axis in (1, 2, 3):
        assert ask_mr(changed(mr[1][0], lambda data, a=axis: np.flip(data, a))) == {}


def test_another_field_of_view_is_no_flip(ask_ct, good_ct):
    """A study that is cropped matches the picture badly; it must not be refused as flipped."""
    for axis in (1, 2, 3):
        for part in (slice(None, 25), slice(-25, None)):
            slices = [slice(None)] * 4
            slices[axis] = part
            found = ask_ct(Volume(good_ct.data_CIJK[tuple(slices)], good_ct.affine))
            assert all(finding.verdict == "warn" for finding in found.values())


def test_inverted_images_are_refused(ask_ct, ask_mr, good_ct, mr, changed):
    found = ask_ct(changed(good_ct, lambda data: 200 - data))["inverted"]
    assert found.verdict == "reject"
    assert "correlates -0." in found.found
    only_second = mr[1][0].data_CIJK.copy()
    only_second[1] = only_second[1].max() - only_second[1]
    found = ask_mr(Volume(only_second, mr[1][0].affine))["inverted"]
    assert found.found.startswith("channel 2: ")


def test_another_body_part_looks_unlike(ask_ct, mr):
    """A head, brought to Hounsfield units and to the abdomen's size by its header."""
    head = mr[1][0]
    data = np.where(head.data_CIJK[:1] > 100, head.data_CIJK[:1] / 3, -1000)
    data += np.random.default_rng(0).normal(0, 15, data.shape)
    found = ask_ct(Volume(data.transpose(0, 3, 1, 2).astype(np.float32), np.diag([5, 2.6, 3, 1.0])))
    assert found["likeness"].verdict == "warn"


def test_training_cases_that_have_nothing_in_common_tell_nothing(ct, ask_ct, good_ct, changed):
    look = ct[0].look
    apart = look.template.similarity.model_copy(update={"lowest": -0.9})
    template = Template(**(dict(look.template) | {"similarity": apart, "votes": {}}))
    motley = ct[0].model_copy(update={"look": look.model_copy(update={"template": template})})
    assert ask_ct(good_ct, fingerprint=motley) == {}
    assert ask_ct(changed(good_ct, lambda data: np.flip(data, 3)), fingerprint=motley) == {}


def test_few_cases_have_no_picture_to_compare_with(ct, ask_ct, good_ct, changed):
    look = ct[0].look.model_copy(update={"template": None})
    few = ct[0].model_copy(update={"look": look})
    assert ask_ct(changed(good_ct, lambda data: np.flip(data, 3)), fingerprint=few) == {}
