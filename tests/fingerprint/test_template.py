import itertools

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.fingerprint import Template
from pipeline.fingerprint.appearance import CUBE_SIZE
from pipeline.fingerprint.template import MIN_CASES, ORIENTATIONS, make_template

SHAPE = (CUBE_SIZE,) * 3


def cubes(num, noise=0.05, seed=0, axes=(0, 1, 2)):
    """Cubes whose brightness differs between the ends of some axes, for each by another amount."""
    rng = np.random.default_rng(seed)
    where = np.indices(SHAPE) / (CUBE_SIZE - 1) - 0.5
    mean = 0.5 + sum((0.1 + 0.1 * axis) * where[axis] for axis in axes)
    return [[(mean + rng.normal(0, noise, SHAPE)).astype(np.float32)] for _ in range(num)]


def as_claimed(cube, code):
    """A cube in RAS order, stored with axes that run as `code` says but claimed to be RAS."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code)
    )
    return nib.orientations.apply_orientation(cube, turn)


def test_all_48_orientations_by_nibabels_codes():
    assert len(ORIENTATIONS) == 48
    assert set(ORIENTATIONS) == {
        "".join(letters)
        for order in itertools.permutations(("RL", "AP", "SI"))
        for letters in itertools.product(*order)
    }


@pytest.mark.parametrize("code", ["LAS", "RPS", "LPI", "ASR", "SLP"])
def test_a_study_votes_for_how_it_lies(code):
    template = make_template(cubes(20))
    assert len(template.votes) == 47
    new = cubes(1, seed=9)[0]
    right = template.ask(new)
    assert min(right.values()) > 0.7
    turned = [as_claimed(new[0], code)]
    assert template.ask(turned)[code] < -0.7
    assert template.similarities(turned, code)[0] == pytest.approx(
        template.similarities(new)[0], abs=1e-6
    )


def test_what_looks_alike_from_both_sides_cannot_be_told():
    template = make_template(cubes(20, axes=(1,)))
    assert "RPS" in template.votes
    assert not {"LAS", "RAI", "LAI"} & set(template.votes)


def test_noise_tells_nothing():
    assert make_template(cubes(20, noise=0.2, axes=())).votes == {}


def test_one_case_that_lies_otherwise_leaves_the_axis_open():
    cases = cubes(20)
    cases[3] = [np.flip(cases[3][0], 1)]
    assert "RPS" not in make_template(cases).votes


def test_similarity_is_numpys_correlation_with_the_mean_of_the_others():
    cases = cubes(10)
    template = make_template(cases)
    expected = [
        np.corrcoef(own[0].ravel(), np.mean([c[0] for c in cases if c is not own], axis=0).ravel())[
            0, 1
        ]
        for own in cases
    ]
    assert template.similarity.lowest == pytest.approx(min(expected), abs=1e-5)
    assert template.similarity.highest == pytest.approx(max(expected), abs=1e-5)
    mean = np.mean([case[0] for case in cases], axis=0)
    new = cubes(1, seed=9)[0]
    expected = np.corrcoef(new[0].ravel(), mean.ravel())[0, 1]
    assert template.similarities(new)[0] == pytest.approx(expected, abs=1e-3)
    assert template.similarities([1 - new[0]])[0] == pytest.approx(-expected, abs=1e-3)


def test_there_is_no_picture_of_a_few_patients():
    assert make_template(cubes(MIN_CASES - 1)) is None
    assert make_template(cubes(MIN_CASES)) is not None


def test_constant_pictures_divide_nothing_by_zero():
    template = make_template([[np.full(SHAPE, 0.5, np.float32)]] * 10)
    assert template.votes == {}
    assert template.similarity.highest == 0


def test_it_survives_json_and_stays_small():
    template = make_template(cubes(20))
    text = template.model_dump_json()
    assert len(text) < 10_000
    again = Template.model_validate_json(text)
    assert again == template
    new = cubes(1, seed=9)[0]
    assert again.ask(new) == template.ask(new)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"means": ["1e400"]}, "base64|number of data"),
        ({"means": ["AAAA"]}, r"does not have \d+\^3 cells"),
        ({"means": []}, "0 means, but 1 stds"),
        ({"votes": {"XYZ": {"mean": 1, "std": 1}}}, "'XYZ' is no orientation"),
    ],
)
def test_a_template_that_is_none_is_refused(changes, match):
    content = make_template(cubes(20)).model_dump() | changes
    with pytest.raises(ValidationError, match=match):
        Template.model_validate(content)
