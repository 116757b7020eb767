from dataclasses import replace

import numpy as np
import pytest

from pipeline.study.dicom.instance import TRAITS, Slice
from pipeline.study.dicom.parts import split_series
from pipeline.study.dicom.problems import Problem
from pipeline.study.dicom.stack import Stack
from tests.dicom_files import AXIAL, positions_along

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def slices_at(positions, *, axes=AXIAL, size=(6, 7), spacing_mm=(2.0, 1.5), **traits):
    values = tuple(traits.get(name) for name in TRAITS)
    return [Slice("IM", 0, size, p, axes, spacing_mm, values) for p in positions]


def names(slices):
    parts = split_series(slices)
    assert all(isinstance(part.stack, Stack) for part in parts)
    return {part.name: len(part.stack.slices) for part in parts}


def refusal(slices):
    (part,) = split_series(slices)
    assert isinstance(part.stack, Problem)
    assert part.name == ""
    return part.stack.found


def test_a_regular_series_is_one_part_whatever_its_slices_count():
    """Acquisition numbers and trigger times may run along a volume."""
    slices = [
        one
        for index, p in enumerate(positions_along(count=8))
        for one in slices_at([p], AcquisitionNumber=float(index), TriggerTime=10.0 * index)
    ]
    assert names(slices) == {"": 8}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("TemporalPositionIdentifier", 1.0, 2.0),
        ("AcquisitionNumber", 1.0, 2.0),
        ("DiffusionBValue", 0.0, 1000.0),
        ("EchoTime", 2.46, 4.92),
        ("InversionTime", 100.0, 200.0),
        ("TriggerTime", 0.0, 40.0),
    ],
)
def test_volumes_at_the_same_positions_are_told_apart(name, low, high):
    slices = [one for value in (high, low) for one in slices_at(positions_along(), **{name: value})]
    assert names(slices) == {f"{name} {low:g}": 5, f"{name} {high:g}": 5}


def test_values_that_might_tell_the_patient_are_not_shown():
    slices = [
        one
        for value in ("101500", "101600")
        for one in slices_at(positions_along(), AcquisitionTime=value)
    ]
    assert names(slices) == {"1 of 2 by AcquisitionTime": 5, "2 of 2 by AcquisitionTime": 5}


def test_magnitude_and_phase_are_told_by_image_type():
    slices = [
        one
        for kind in ("M", "P")
        for one in slices_at(positions_along(), ImageType=("ORIGINAL", "PRIMARY", kind))
    ]
    assert names(slices) == {"1 of 2 by ImageType": 5, "2 of 2 by ImageType": 5}


def test_two_differences_together_may_be_needed():
    slices = [
        one
        for b in (0.0, 800.0)
        for echo in (10.0, 20.0)
        for one in slices_at(positions_along(), DiffusionBValue=b, EchoTime=echo)
    ]
    assert len(names(slices)) == 4
    assert names(slices)["DiffusionBValue 800, EchoTime 20"] == 5


def test_orientations_and_sizes_are_told_apart():
    coronal = positions_along((0, 4, 0))
    both = slices_at(positions_along()) + slices_at(coronal, axes=CORONAL)
    assert names(both) == {"1 of 2 by orientation": 5, "2 of 2 by orientation": 5}
    sizes = slices_at(positions_along()) + slices_at(positions_along(), size=(12, 14))
    assert set(names(sizes)) == {"1 of 2 by image size", "2 of 2 by image size"}
    coarse = slices_at(positions_along(), spacing_mm=(3.0, 3.0))
    assert len(names(slices_at(positions_along()) + coarse)) == 2


def test_a_stack_of_which_some_slices_lack_their_rescale_is_refused():
    slices = [replace(one, is_rescaled=True) for one in slices_at(positions_along())]
    assert names(slices) == {"": 5}
    slices[2] = replace(slices[2], is_rescaled=False)
    assert refusal(slices) == "its slices are one stack, but differ in rescaling"


def test_one_stack_of_two_contrasts_is_two_volumes():
    """Slices that take turns between two echoes make a regular stack, but no image."""
    slices = [
        one
        for index, p in enumerate(positions_along(count=8))
        for one in slices_at([p], EchoTime=10.0 + 90 * (index % 2))
    ]
    assert names(slices) == {"EchoTime 10": 4, "EchoTime 100": 4}


def test_a_single_slice_of_another_contrast_refuses_the_stack():
    slices = slices_at(positions_along(), EchoTime=10.0)
    slices[2] = slices_at([slices[2].position_mm], EchoTime=20.0)[0]
    assert refusal(slices) == "its slices are one stack, but differ in EchoTime"


def test_phases_of_which_one_lacks_a_slice_are_refused_together():
    late = slices_at(positions_along(), TemporalPositionIdentifier=2.0)
    del late[2]
    slices = slices_at(positions_along(), TemporalPositionIdentifier=1.0) + late
    expected = "9 slices lie at 5 positions; its images differ in TemporalPositionIdentifier"
    assert refusal(slices) == expected


@pytest.mark.parametrize("name", ["AcquisitionNumber", "AcquisitionTime"])
def test_two_halves_between_which_a_slice_is_missing_are_no_volumes(name):
    """Such as a CT in two breath-holds, of which an image was lost where they meet."""
    values = {"AcquisitionNumber": (1.0, 2.0), "AcquisitionTime": ("101500", "101510")}[name]
    places = positions_along(count=11)
    slices = slices_at(places[:5], **{name: values[0]}) + slices_at(places[6:], **{name: values[1]})
    assert refusal(slices).startswith("1 slice(s) are missing among 10, the first after slice 5")


def test_two_stacks_apart_that_are_said_to_be_two_are_two():
    places = positions_along(count=11)
    slices = slices_at(places[:5], StackID="1") + slices_at(places[6:], StackID="2")
    assert names(slices) == {"1 of 2 by StackID": 5, "2 of 2 by StackID": 5}
    other = positions_along(count=5, start=(50.0, -20.0, 90.0))
    slices = slices_at(places[:5], AcquisitionNumber=1.0) + slices_at(other, AcquisitionNumber=2.0)
    assert names(slices) == {"AcquisitionNumber 1": 5, "AcquisitionNumber 2": 5}


def test_copies_that_nothing_tells_apart_are_refused():
    assert refusal(slices_at(positions_along() * 2)) == "10 slices lie at 5 positions"


def test_slices_that_turn_around_an_axis_are_refused():
    slices = []
    for angle in np.linspace(0, np.pi, 12, endpoint=False):
        axes = (float(np.cos(angle)), float(np.sin(angle)), 0.0, 0.0, 0.0, -1.0)
        slices += slices_at([(0.0, 0.0, 0.0)], axes=axes)
    assert refusal(slices) == (
        "its slices are not parallel (several orientations); its images differ in orientation"
    )


def test_missing_positions_do_not_stop_the_search():
    slices = slices_at(positions_along())
    slices.append(Slice("IM", 0, (6, 7), None, None, None, (None,) * len(TRAITS)))
    assert refusal(slices).startswith("1 of 6 images have no valid ImagePositionPatient")


def taking_turns(count=8, numbers=None, **traits):
    """A regular stack whose slices alternate; `traits` name the two values of each."""
    return [
        replace(
            slices_at([p], **{name: values[index % 2] for name, values in traits.items()})[0],
            number=float(numbers[index] if numbers else index + 1),
        )
        for index, p in enumerate(positions_along(count=count))
    ]


TWICE = [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_passes_that_are_numbered_anew_are_two_volumes(modality):
    slices = taking_turns(numbers=TWICE, AcquisitionNumber=(1.0, 2.0))
    parts = split_series(slices, modality)
    assert [part.name for part in parts] == ["AcquisitionNumber 1", "AcquisitionNumber 2"]
    for first, part in enumerate(parts):
        expected_mm = [p[2] for p in positions_along(count=8)[first::2]]
        assert [one.position_mm[2] for one in part.stack.slices] == expected_mm
        assert part.stack.grid.spacing_mm == (1.5, 2.0, 6.0)


def test_passes_of_a_ct_are_two_volumes_however_they_are_numbered():
    for numbers in (None, [1, 5, 2, 6, 3, 7, 4, 8]):
        slices = taking_turns(numbers=numbers, AcquisitionNumber=(1.0, 2.0))
        assert len(split_series(slices, "CT")) == 2
    slices = taking_turns(AcquisitionTime=("101010", "102020"))
    assert [part.name for part in split_series(slices, "CT")] == [
        "1 of 2 by AcquisitionTime",
        "2 of 2 by AcquisitionTime",
    ]


def test_concatenations_of_an_mr_stay_one_volume_with_a_warning():
    (part,) = split_series(taking_turns(AcquisitionNumber=(1.0, 2.0)), "MR")
    assert len(part.stack.slices) == 8
    (warning,) = part.warnings
    assert warning.startswith("its slices take turns between several acquisitions")
    (part,) = split_series(taking_turns(AcquisitionTime=("101010", "102020")), "MR")
    assert (len(part.stack.slices), part.warnings) == (8, ())


def test_a_number_that_changes_once_leaves_one_volume():
    """Chest, then abdomen, whether their images are numbered through or each from the start."""
    places = positions_along(count=8)
    chest = slices_at(places[:4], AcquisitionNumber=1.0)
    slices = chest + slices_at(places[4:], AcquisitionNumber=2.0)
    for numbers in ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 1, 2, 3, 4]):
        numbered = [replace(s, number=float(n)) for s, n in zip(slices, numbers, strict=True)]
        (part,) = split_series(numbered, "CT")
        assert (len(part.stack.slices), part.warnings) == (8, ())


def test_passes_that_nothing_but_their_numbers_tells_apart_are_refused():
    (part,) = split_series(taking_turns(numbers=TWICE), "CT")
    assert part.stack.found == (
        "its slices are one stack, but take turns between images of 2 passes, each numbered anew "
        "(InstanceNumber)"
    )
    assert part.stack.remedy == "Give each pass as a series of its own."


def test_acquisitions_that_take_turns_and_are_no_stacks_stay_with_a_warning():
    values = (1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 1.0, 2.0)
    slices = [
        one
        for value, p in zip(values, positions_along(count=8), strict=True)
        for one in slices_at([p], AcquisitionNumber=value)
    ]
    (part,) = split_series(slices, "CT")
    assert (len(part.stack.slices), len(part.warnings)) == (8, 1)
