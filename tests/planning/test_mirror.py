import numpy as np
import pytest

from pipeline.planning.mirror import decide_mirroring, sides_named
from pipeline.planning.survey import Body


def bodies(places, size_mm=(350.0, 250.0, 300.0)):
    """Bodies from `{value: [(r, a, s), ...]}`; None where a case lacks the label."""
    count = len(next(iter(places.values())))
    return [
        Body(size_mm, {v: p[n] for v, p in places.items() if p[n] is not None}, 0.1)
        for n in range(count)
    ]


def decide(names, places, **keywords):
    return {d.axis: d for d in decide_mirroring(names, bodies(places, **keywords))}


MIDDLE = [(0.01 * (-1) ** n, 0.2, 0.1) for n in range(24)]


@pytest.mark.parametrize(
    ("name", "axis", "words"),
    [
        ("left_kidney", "R", ("left",)),
        ("RightLung", "R", ("right",)),
        ("kidney l", "R", ("l",)),
        ("ctx-lh-precuneus", "R", ("lh",)),
        ("left1", "R", ("left",)),
        ("LV", "R", ("lv",)),
        ("L1", "R", ()),
        ("liver", "R", ()),
        ("bright spot", "R", ()),
        ("anterior", "A", ("anterior",)),
        ("Lung upper lobe", "S", ("upper",)),
    ],
)
def test_names_with_sides(name, axis, words):
    assert sides_named(name, axis) == words


def test_a_side_in_a_name_forbids_r():
    decision = decide({"left_hippocampus": 1}, {1: MIDDLE})["R"]
    assert not decision.is_allowed
    assert "label 'left_hippocampus' names a side (left)" in decision.evidence


def test_a_liver_on_the_right_forbids_r_and_the_evidence_counts_it():
    decision = decide({"organ": 1}, {1: [(0.15, 0, 0.1)] * 24})["R"]
    assert not decision.is_allowed
    assert decision.evidence == ("organ lies right of the image's centre in 24 of 24 cases",)


def test_either_side_and_the_middle_allow_r_only():
    tumours = [(0.2 * (-1) ** (n // 3), 0.1, 0.1) for n in range(24)]
    decisions = decide({"brain": 1, "tumour": 2}, {1: MIDDLE, 2: tumours})
    assert decisions["R"].is_allowed
    assert "tumour lies right of the image's centre in 12 of 24 cases" in decisions["R"].evidence
    assert not decisions["A"].is_allowed
    assert not decisions["S"].is_allowed


def test_two_labels_side_by_side_in_one_order_forbid_r():
    # Neither lies on one side of the image, which is cut anywhere.
    shifts = np.linspace(-0.3, 0.3, 20)
    places = {1: [(s + 0.1, 0, 0) for s in shifts], 2: [(s - 0.1, 0, 0) for s in shifts]}
    decision = decide({"a": 1, "b": 2}, places)["R"]
    assert not decision.is_allowed
    assert decision.evidence == ("a lies right of b in 20 of 20 cases",)


def test_a_label_that_cases_lack_is_counted_where_it_is():
    places = {1: MIDDLE, 2: [(0.2, 0, 0) if n < 6 else None for n in range(24)]}
    decision = decide({"body": 1, "cyst": 2}, places)["R"]
    assert "cyst lies right of the image's centre in 6 of 6 cases" in decision.evidence


def test_few_cases_are_no_evidence_of_symmetry():
    decision = decide({"brain": 1}, {1: MIDDLE[:4]})["R"]
    assert not decision.is_allowed
    assert "4 cases are too few" in decision.evidence[0]


def test_the_centre_of_a_small_crop_is_not_the_bodys():
    places = {1: [(-0.1, 0.2, 0)] * 24}
    assert not decide({"part": 1}, places)["R"].is_allowed
    decision = decide({"part": 1}, places, size_mm=(35.0, 50.0, 36.0))["R"]
    assert decision.is_allowed
    assert any("the image is a crop" in text for text in decision.evidence)


def test_grains_that_lie_anywhere_allow_every_axis():
    rng = np.random.default_rng(0)
    places = {1: [tuple(p) for p in rng.uniform(-0.5, 0.5, (200, 3))]}
    assert all(d.is_allowed for d in decide({"cell": 1}, places).values())
    names = {"upper cell": 1}
    assert not decide(names, places)["S"].is_allowed


def test_a_regions_name_counts_too():
    (right, *_) = decide_mirroring({"tissue": 1}, bodies({1: MIDDLE}), ["left whole"])
    assert not right.is_allowed
