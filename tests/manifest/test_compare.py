from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest import Case, Region
from pipeline.manifest.check import compare_cases, find_outliers
from pipeline.manifest.examine import CaseFacts


def case(name, subject=None, split=None, label="l.nii"):
    return Case(name, (Path("i.nii"),), label and Path(label), subject or name, split)


def facts(of, *, spacing=(1.0, 1.0, 1.0), size=(50.0, 50.0, 50.0), content=None, values=(0, 1, 2)):
    return CaseFacts(of, spacing, size, content or of.name, frozenset(values))


def listed(findings):
    return [(finding.case, finding.severity, finding.found) for finding in findings]


def test_nothing_to_find(make_manifest):
    cases = [case(name) for name in "abc"]
    assert compare_cases([facts(c) for c in cases], make_manifest(*cases)) == []


@pytest.mark.parametrize(("subjects", "severity"), [("xy", "error"), ("xx", "warning")])
def test_a_copy_is_found(make_manifest, subjects, severity):
    cases = [case("a", subjects[0]), case("b", subjects[1])]
    findings = compare_cases([facts(c, content="same") for c in cases], make_manifest(*cases))
    assert listed(findings) == [("b", severity, "the image has the same voxels as that of case a")]


def test_images_that_could_not_be_read_are_no_copies(make_manifest):
    cases = [case("a"), case("b")]
    manifest = make_manifest(*cases)
    assert compare_cases([CaseFacts(c, values=frozenset({1, 2})) for c in cases], manifest) == []


def test_a_subject_on_both_sides_is_found(make_manifest):
    cases = [
        case("a", "x", "train"),
        case("b", "y", "train"),
        case("c", "x", "validation"),
        case("d", "y", "train"),
    ]
    findings = compare_cases([facts(c) for c in cases], make_manifest(*cases))
    found = "the case's subject has cases in train, validation"
    assert listed(findings) == [("a", "error", found), ("c", "error", found)]


def test_a_case_without_label_is_found_unless_it_is_a_test_case(make_manifest):
    cases = [case("a"), case("b", label=None), case("c", label=None, split="test")]
    findings = compare_cases([facts(c) for c in cases], make_manifest(*cases))
    assert listed(findings) == [("b", "error", "the case has no label")]


def test_a_set_without_labels_is_one_finding(make_manifest):
    cases = [case(name, label=None) for name in "abc"]
    manifest = make_manifest(*cases, labels={})
    findings = compare_cases([CaseFacts(c) for c in cases], manifest)
    assert listed(findings) == [("(all cases)", "warning", "no case has a label")]


def test_a_label_that_no_case_has_is_found(make_manifest):
    cases = [case("a"), case("b")]
    findings = compare_cases([facts(c, values=(0, 1)) for c in cases], make_manifest(*cases))
    found = "label 'back' (2) is in no label map"
    assert listed(findings) == [("(all cases)", "warning", found)]


@pytest.mark.parametrize("elsewhere", ["validation", "test"])
def test_a_label_that_no_training_case_has_is_found(make_manifest, elsewhere):
    cases = [case("a", split="train"), case("b", split=elsewhere)]
    seen = [facts(cases[0], values=(0, 1)), facts(cases[1], values=(0, 1, 2))]
    (found,) = compare_cases(seen, make_manifest(*cases))
    assert (found.case, found.severity) == ("(all cases)", "warning")
    assert all(word in found.found for word in ("'back'", "training case"))


def test_labels_without_names_are_found(make_manifest):
    (finding,) = compare_cases([facts(case("a"))], make_manifest(case("a"), labels={}))
    assert (finding.severity, finding.found) == ("warning", "no label is named (values: 1, 2)")


BRATS = {"edema": 1, "core": 2, "enhancing": 3}
WHOLE = Region("whole", ("edema", "core", "enhancing"), "edema")
INNER = Region("inner", ("core", "enhancing"), "core")
BRIGHT = Region("bright", ("enhancing",), "enhancing")
LEFT = Region("left", ("edema", "core"), "edema")


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ((), []),
        ((WHOLE, INNER, BRIGHT), []),
        ((WHOLE,), []),
        ((INNER, BRIGHT), ["label 'edema' is in no region"]),
        (
            (BRIGHT, INNER, WHOLE),
            [
                "a mask says 'edema' for 'core', which is not in the same regions",
                "a mask says 'edema' for 'enhancing', which is not in the same regions",
            ],
        ),
        (
            (LEFT, Region("right", ("core", "enhancing"), "enhancing")),
            ["a mask says 'enhancing' for 'core', which is not in the same regions"],
        ),
        (
            (
                LEFT,
                Region("right", ("core", "enhancing"), "enhancing"),
                Region("both", ("core",), "core"),
            ),
            [],
        ),
    ],
)
def test_labels_that_regions_lose_are_found(make_manifest, regions, expected):
    manifest = make_manifest(case("a"), labels=BRATS, regions=regions)
    findings = compare_cases([facts(case("a"), values=(0, 1, 2, 3))], manifest)
    assert listed(findings) == [("(all cases)", "warning", found) for found in expected]


def test_a_spacing_and_a_size_far_from_the_others_are_found(make_manifest):
    cases = [case(f"c{i}") for i in range(20)]
    measured = [facts(c) for c in cases]
    measured[3] = facts(cases[3], spacing=(1.0, 1.0, 5.0))
    measured[7] = facts(cases[7], size=(50.0, 5.0, 50.0))
    assert listed(compare_cases(measured, make_manifest(*cases))) == [
        ("c3", "warning", "spacing 1 x 1 x 5 mm is far from the usual 1 x 1 x 1 mm (R x A x S)"),
        ("c7", "warning", "size 50 x 5 x 50 mm is far from the usual 50 x 50 x 50 mm (R x A x S)"),
    ]


def test_two_kinds_of_study_are_one_finding(make_manifest):
    cases = [case(f"c{i}") for i in range(20)]
    measured = [facts(c, spacing=(1, 1, 5 if i < 5 else 1)) for i, c in enumerate(cases)]
    found = "spacing of 5 of 20 cases is far from the usual 1 x 1 x 1 mm (R x A x S)"
    findings = compare_cases(measured, make_manifest(*cases))
    assert listed(findings) == [("(all cases)", "warning", found)]


def test_outliers_by_hand():
    # Logarithms with median 0 and median absolute deviation 0.1: the limit is 5 x 0.14826 = 0.741.
    logs = np.array([0.0, 0.1, 0.1, 0.1, 0.1, -0.1, -0.1, -0.1, -0.1, 0.75, -0.74])
    assert find_outliers(np.exp(logs)[:, None]).nonzero()[0].tolist() == [9]


def test_few_cases_have_no_outliers():
    assert not find_outliers(np.array([[1.0]] * 6 + [[100.0]])).any()
    assert find_outliers(np.array([[1.0]] * 7 + [[100.0]])).tolist() == [False] * 7 + [True]


@given(st.lists(st.floats(0.9, 1.1), min_size=1, max_size=40), st.floats(0.01, 100))
def test_values_that_are_nearly_equal_are_never_outliers(values, unit):
    # 1.1 / 0.9 is within 25 %.
    assert not find_outliers(np.array(values)[:, None] * unit).any()


@given(st.data(), st.lists(st.floats(0.01, 100), min_size=8, max_size=30))
def test_outliers_do_not_depend_on_the_order(data, values):
    array = np.array(values)[:, None]
    order = data.draw(st.permutations(range(len(values))))
    assert (find_outliers(array[order]) == find_outliers(array)[order]).all()
