from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation import EvaluationConfig, score_case
from pipeline.manifest import Region
from pipeline.postprocessing import PostprocessingConfig, Rule, postprocess
from pipeline.postprocessing.crf import CrfConfig
from pipeline.selection import scoring
from pipeline.selection.candidates import IDENTITY, Candidates, Choice
from pipeline.selection.changes import difference
from pipeline.selection.out_of_fold import SegmentedCase
from pipeline.selection.scoring import CaseScorer
from pipeline.volume import LabelMap

AFFINE = np.diag([1.0, 2.0, 1.5, 1.0])
LABELS = {"inner": 1, "outer": 2}
RULES = (Rule(label="outer", fill_holes="3d"), Rule(label="inner", keep_largest=1))
BOTH = frozenset(LABELS)
DIAGONAL_MM = float(np.linalg.norm([6, 14, 12]))


def random_map(seed, largest=2):
    """Half background, so that labels fall into many components."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(1, largest + 1, (6, 7, 8)) * (rng.random((6, 7, 8)) < 0.2)
    return voxels.astype(np.uint8)


@pytest.fixture
def make_scorer(description):
    def make(seed=0, annotated=None, regions=(), evaluation=None):
        before, after, reference = (random_map(3 * seed + n) for n in range(3))
        maps = (LabelMap(before, AFFINE), LabelMap(reference, AFFINE))
        changes = {0: difference(before, after)}
        segmented = SegmentedCase(*maps, changes, DIAGONAL_MM, (0, 0, 0), before.shape)
        described = description.model_copy(update={"regions": regions})
        candidates = Candidates((CrfConfig(),), RULES)
        return CaseScorer(
            segmented, annotated, described, candidates, evaluation or EvaluationConfig()
        ), after

    return make


def expected(labels_IJK, scorer, structures=LABELS):
    found = score_case(
        "", LabelMap(labels_IJK, AFFINE), scorer.segmented.reference, structures, scorer.evaluation
    )
    return [[s.dice, s.nsd, s.hd95_mm, s.volume_error_percent] for s in found]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_evaluation(make_scorer, seed):
    scorer, after = make_scorer(seed)
    before = scorer.segmented.before
    np.testing.assert_array_equal(scorer.score(IDENTITY), expected(before.labels_IJK, scorer))
    np.testing.assert_array_equal(scorer.score(Choice(0, BOTH)), expected(after, scorer))
    config = PostprocessingConfig(rules=RULES)
    cleaned = postprocess(after, before.grid, LABELS, config).labels_IJK
    np.testing.assert_array_equal(scorer.score(Choice(0, BOTH, (0, 1))), expected(cleaned, scorer))


def test_a_label_that_may_not_change_keeps_every_voxel_and_its_scores(make_scorer):
    scorer, after = make_scorer()
    before = scorer.segmented.before.labels_IJK
    gated = scorer.labels_after(Choice(0, frozenset({"inner"})))
    np.testing.assert_array_equal(gated == 2, before == 2)
    np.testing.assert_array_equal(
        gated[(before < 2) & (after < 2)], after[(before < 2) & (after < 2)]
    )
    scores = scorer.score(Choice(0, frozenset({"inner"})))
    np.testing.assert_array_equal(scores[1], scorer.score(IDENTITY)[1])
    assert scores[0, 0] != scorer.score(IDENTITY)[0, 0]


def test_a_label_that_is_missed_has_the_diagonal_of_the_whole_grid_as_hd95(make_scorer):
    """And not that of the box which is kept of the case."""
    scorer, _ = make_scorer()
    scorer.segmented = replace(scorer.segmented, diagonal_mm=500.0)
    scorer.segmented.reference.labels_IJK[scorer.segmented.reference.labels_IJK == 1] = 2
    inner, outer = scorer.score(IDENTITY)
    np.testing.assert_array_equal(inner[:3], [0, 0, 500])
    assert outer[2] < 20


def test_scores_are_known_by_voxels_of_the_whole_grid(make_scorer):
    """The box of a case is another one when other changes are read with it."""
    scorer, after = make_scorer()
    before = scorer.segmented.before
    scores = scorer.score(Choice(0, BOTH))
    larger = [
        LabelMap(np.pad(part.labels_IJK, ((1, 0), (2, 0), (0, 3))), AFFINE)
        for part in (before, scorer.segmented.reference)
    ]
    change = difference(larger[0].labels_IJK, np.pad(after, ((1, 0), (2, 0), (0, 3))))
    smaller = replace(scorer.segmented, start=(1, 2, 0), shape=(7, 9, 11))
    first = replace(scorer, segmented=smaller, known={}, _base=None)
    first.score(Choice(0, BOTH))
    wider = replace(smaller, before=larger[0], reference=larger[1], changes={0: change})
    wider = replace(wider, start=(0, 0, 0))
    again = replace(first, segmented=wider, known=first.known, _base=None)
    num_known = len(first.known)
    np.testing.assert_array_equal(again.score(Choice(0, BOTH)), scores)
    assert len(again.known) == num_known


def test_what_did_not_change_is_not_measured_again(make_scorer, monkeypatch):
    scorer, _ = make_scorer()
    measured = []
    monkeypatch.setattr(
        scoring,
        "score_case",
        lambda *args: measured.append(sorted(args[3])) or score_case(*args),
    )
    for choice in (IDENTITY, IDENTITY, Choice(rules=(1,)), Choice(0, frozenset()), Choice(0, BOTH)):
        scorer.score(choice)
    assert measured == [["inner", "outer"], ["inner"], ["inner", "outer"]]


def test_labels_that_the_case_does_not_annotate_have_no_score(make_scorer):
    scorer, after = make_scorer(annotated=("outer",))
    scores = scorer.score(Choice(0, BOTH))
    assert np.isnan(scores[0]).all()
    np.testing.assert_array_equal(scores[1:], expected(after, scorer, {"outer": 2}))


def test_ignored_voxels_do_not_count(make_scorer):
    scorer, _ = make_scorer(evaluation=EvaluationConfig(ignore_value=2))
    after = scorer.segmented.before.labels_IJK.copy()
    ignored = scorer.segmented.reference.labels_IJK == 2
    after[ignored] = 1
    plain = expected(scorer.segmented.before.labels_IJK, scorer, {"inner": 1})
    np.testing.assert_array_equal(expected(after, scorer, {"inner": 1}), plain)
    np.testing.assert_array_equal(scorer.score(IDENTITY)[:1], plain)


def test_regions_are_scored_as_one(make_scorer):
    regions = (Region(name="all", labels=("inner", "outer"), writes="outer"),)
    scorer, _ = make_scorer(regions=regions)
    before = scorer.segmented.before.labels_IJK
    whole = expected(before, scorer, {"all": (1, 2)})
    np.testing.assert_array_equal(scorer.score(IDENTITY), whole)
    cleaned = scorer.labels_after(Choice(rules=(1,)))
    assert (cleaned != before).any()
    np.testing.assert_array_equal(
        scorer.score(Choice(rules=(1,))), expected(cleaned, scorer, {"all": (1, 2)})
    )
