import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.selection.evidence import MOST_CANDIDATES, draw_decision
from pipeline.selection.records import CandidateRecord, StructureRecord

pytestmark = pytest.mark.usefixtures("drawn_pictures")


def candidate(number, gain=0.01, kind="setting"):
    return CandidateRecord(
        name=f"candidate {number}",
        kind=kind,
        gain=gain,
        low=gain - 0.02,
        high=gain + 0.02,
        worst_label="liver",
        worst_change=-0.01,
        num_better=3,
        num_worse=2,
        passes=False,
    )


def structure(name):
    return StructureRecord(
        name=name,
        may_change=True,
        num_cases=12,
        dice_before=0.8,
        dice_after=0.81,
        nsd_before=0.7,
        nsd_after=0.72,
    )


@pytest.mark.parametrize(("num_candidates", "num_structures"), [(1, 1), (20, 3), (300, 118)])
def test_a_picture_of_bounded_size_comes_of_any_number(tmp_path, num_candidates, num_structures):
    candidates = [candidate(number, number / 1000) for number in range(num_candidates)]
    structures = [structure(f"{n}: <b>a $\\frac{{$ long name</b>") for n in range(num_structures)]
    draw_decision(candidates, structures, "because $x_$ " * 60, tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")
    assert max(picture.shape) < 3000
    assert (picture[..., :3] < 0.5).any()


def test_of_many_candidates_those_that_change_most_are_shown(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "pipeline.selection.evidence._draw_candidates", lambda _, rows: shown.extend(rows)
    )
    gains = np.linspace(0, 0.1, 99)
    candidates = [candidate(n, gain) for n, gain in enumerate(gains)]
    candidates.append(candidate(99, 0.0, "proposed"))
    draw_decision(candidates, [structure("liver")], "", tmp_path / "a.png")
    assert len(shown) == MOST_CANDIDATES
    assert [row.name for row in shown] == [f"candidate {n}" for n in range(60, 100)]
