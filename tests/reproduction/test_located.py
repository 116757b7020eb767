import pytest
import torch

from pipeline.cohort import run_cohort
from pipeline.cohort.own_process import Here
from pipeline.cohort.request import Job
from pipeline.journal import PRIVATE
from pipeline.reproduction.sources import locate_by_journal
from tests.cohort.conftest import (  # noqa: F401 (fixtures)
    model,
    model_folder,
    remote,
    save_volume,
    studies,
)


@pytest.fixture
def out(remote, model, studies):  # noqa: F811
    request = remote.request
    cpu = torch.device("cpu")
    run_cohort(studies, request, lambda: Here(Job.of(model, cpu, request.out, request.options)))
    return request.out


def test_the_journal_knows_input_and_model(out, studies, model_folder):  # noqa: F811
    found = locate_by_journal(out / "b_seg.json")
    assert found.inputs == studies[1].sources
    assert found.model == model_folder


def test_a_folder_above_may_have_the_journal(out, studies):  # noqa: F811
    below = out / "sub-1" / "anat"
    below.mkdir(parents=True)
    (out / "b_seg.json").rename(below / "b_seg.json")
    assert locate_by_journal(below / "b_seg.json").inputs == studies[1].sources


def test_without_a_journal_or_a_provenance_nothing_is_known(out, tmp_path):
    assert locate_by_journal(out / "nothing_seg.json") is None
    (tmp_path / "else").mkdir()
    (out / "b_seg.json").rename(tmp_path / "else" / "b_seg.json")
    assert locate_by_journal(tmp_path / "else" / "b_seg.json") is None
    assert (out / PRIVATE).is_dir()
