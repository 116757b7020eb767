import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.manifest import Split, load_manifest
from pipeline.network.unet import UNet
from pipeline.phantom import PhantomConfig, make_cohort
from pipeline.planning import trial_ground
from pipeline.planning.compose import Choice
from pipeline.planning.expect import expect_practice
from pipeline.planning.mirror import decide_mirroring
from pipeline.planning.rules import PlanConfig
from pipeline.planning.survey import take_survey
from pipeline.planning.trial_ground import (
    FARTHEST_MM,
    LOST_PER_MM,
    PREPARING,
    SHARE,
    GivenUpError,
    TrialGround,
)
from pipeline.planning.trials import hold_out
from pipeline.training.data import read_case
from tests.planning.fakes import FakePricer, make_prospect


@pytest.fixture
def real(tmp_path):
    """What real trials share, of five cases."""
    path = make_cohort(tmp_path / "data", PhantomConfig(num_train=5, num_validation=1))
    manifest = load_manifest(path)
    cases = [case for case in manifest.cases if case.split == "train"]
    pairs = (read_case(case, 1, manifest.study) for case in cases)
    survey = take_survey(((study.volume, labels) for study, labels in pairs), manifest.channels)
    request = PlanConfig(manifest=path, out=tmp_path / "plan.yaml", device="cpu")
    mirroring = decide_mirroring(manifest.labels, survey.bodies)
    choice = Choice(request, None, "cpu", survey, mirroring)
    return TrialGround(choice, manifest, hold_out(cases), FakePricer(), tmp_path, 60.0)


def test_a_real_trial_learns_on_some_cases_and_is_scored_on_others(real):
    prospect = make_prospect(8.0)
    found = real.hold(prospect, 4)
    assert (found.prospect, found.steps) == (prospect, 4)
    assert 0 <= found.dice < 0.9
    # Four steps find next to nothing, and what is not found has the diagonal, of some 350 mm.
    assert 0 < found.hd95_mm <= FARTHEST_MM
    # What four steps are expected to lose is not counted; what all are expected to lose is.
    four, at_all = (expect_practice(steps, prospect.candidate, 7) for steps in (4, 5000))
    lost = 1 - found.dice + LOST_PER_MM * found.hd95_mm
    assert found.loss == pytest.approx(lost - four + at_all)


@pytest.fixture
def slow(real, monkeypatch):
    """Reading and preprocessing of each of 24 cases takes 2 s for each candidate."""

    def cache(self, run, description, cases):
        clock.now_s += 2.0 * len(cases)

    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(TrialGround, "_cache", cache)
    monkeypatch.setattr(trial_ground, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return replace(real, split=Split(24 * real.split.train[:1], real.split.validation))


def test_reading_and_preprocessing_count(slow):
    """For two candidates 4 s a case; 0.2 x 0.2 of the minutes are for all of them."""
    two = [make_prospect(8.0), make_prospect(16.0)]
    for minutes, number in ((60, 24), (35, 12), (15, 8)):
        assert PREPARING * SHARE * 60 * minutes >= 4 * number
        field = replace(slow, minutes=float(minutes)).affordable(two, 2)
        assert len(field.split.train) == number
        assert field.num_trials == 2
        # What that leaves of what steps leave is for segmenting and scoring.
        assert field.scoring_s == pytest.approx(0.4 * SHARE * 60 * minutes - 4 * number)
    for minutes in (12.0, 0.1):
        with pytest.raises(GivenUpError, match="reading and preprocessing a case"):
            replace(slow, minutes=minutes).affordable(two, 2)


def test_without_room_for_their_cases_trials_are_given_up(slow, monkeypatch):
    monkeypatch.setattr(trial_ground, "free_bytes", lambda _: 1000)
    with pytest.raises(GivenUpError, match=r"take at least .*, and 1\.0 kB are free"):
        slow.affordable([make_prospect(8.0)], 1)


def test_segmenting_and_scoring_count(real):
    """Trials are scored on as many cases as the first one's first case says there is time for."""
    prospect = make_prospect(8.0)
    assert len(real.split.validation) == 2
    field = replace(real, scoring_s=1e-3)
    with pytest.raises(GivenUpError, match="segmenting and scoring a case takes"):
        field.hold(prospect, 1)
    assert len(field.scored) == 1
    with pytest.raises(GivenUpError, match="longer than there was time for"):
        field.hold(prospect, 1)
    field = replace(real, scoring_s=1e6, scored=[])
    field.hold(prospect, 1)
    assert len(field.scored) == 2


@pytest.mark.parametrize("step", [1, 2])
def test_ctrl_c_ends_the_trials_in_any_step(real, monkeypatch, step):
    def forward(self, x):
        calls.append(x)
        if len(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return usual(self, x)

    calls, usual = [], UNet.forward
    monkeypatch.setattr(UNet, "forward", forward)
    with pytest.raises(KeyboardInterrupt):
        real.hold(make_prospect(8.0), 2)
    assert len(calls) == step
