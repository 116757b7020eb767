from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.manifest.case import Case, Region, guess_modality, name_case


@pytest.mark.parametrize(
    ("text", "modality"),
    [
        # The ten Decathlon tasks' own words.
        ("CT", "CT"),
        ("MRI", "MR"),
        ("FLAIR", "MR"),
        ("T1w", "MR"),
        ("t1gd", "MR"),
        ("T2w", "MR"),
        ("T2", "MR"),
        ("ADC", "MR"),
        # Other data sets' words.
        ("ct", "CT"),
        ("CT_portal-venous", "CT"),
        ("mp-MRI", "MR"),
        ("T1_Gd", "MR"),
        ("PET", "other"),
        ("SUV", "other"),
        ("noNorm", "other"),
        ("contrast", "other"),
        ("direct", "other"),
        ("", "other"),
    ],
)
def test_modality_is_guessed_from_words(text, modality):
    assert guess_modality(text) == modality


@pytest.mark.parametrize(
    ("images", "name"),
    [
        (("a/liver.nii.gz",), "liver"),
        (("a/x.1.nii.gz",), "x.1"),
        (("a/brain_0000.nii.gz",), "brain_0000"),
        (("a/brain_0000.nii.gz", "a/brain_0001.nii.gz"), "brain"),
        (("a/t1.mha", "a/t2.mha"), "t1"),
    ],
)
def test_a_case_is_named_by_its_first_image(images, name):
    assert name_case(tuple(map(Path, images))) == name


def test_classes_follow_the_label_values(make_manifest):
    """Values 2, 5 and 9 are the classes 1, 2 and 3, in whatever order the names come."""
    case = Case("a", (Path("a.nii"),), None, "a", annotated=("high", "low"))
    whole = Region("whole", ("high", "middle"), "middle")
    manifest = make_manifest(case, labels={"high": 9, "low": 2, "middle": 5}, regions=(whole,))
    assert manifest.label_values == [0, 2, 5, 9]
    assert manifest.annotates(case) == (True, False, True)
    assert manifest.annotates(replace(case, annotated=None)) == (True, True, True)
    assert manifest.region_classes == ((3, 2),)
