import pickle
from dataclasses import replace

import pytest
import torch

from pipeline.cohort import SegmentOptions
from pipeline.errors import ModelError
from pipeline.gate import AdmissionConfig
from pipeline.model import save_model
from pipeline.study import StudyConfig


def test_whatever_decides_the_outputs_decides_the_method(remote):
    request = remote.request
    assert request.method == replace(request, out=request.out / "elsewhere").method
    assert request.method == replace(request, options=SegmentOptions(max_bytes=10**9)).method
    description = request.description.model_copy(update={"study": StudyConfig(non_finite="repair")})
    for other in (
        replace(request, sha256="b" * 64),
        replace(request, description=description),
        replace(request, options=SegmentOptions(pictures=True)),
    ):
        assert other.method != request.method


def test_stricter_admission_judges_anew_but_makes_no_mask_anew(remote):
    request = remote.request
    strict = AdmissionConfig(spacing="reject")
    other = replace(
        request, description=request.description.model_copy(update={"admission": strict})
    )
    assert other.method == request.method
    assert other.gate != request.gate


def test_the_record_names_model_and_labels(remote):
    record = remote.request.as_record()
    assert (record["model"], record["labels"]) == ("tiny", {"liver": 1, "lesion": 2})
    assert record["folder"] == str(remote.request.folder)
    assert replace(remote.request, folder=None).as_record()["folder"] == ""


def test_a_job_can_be_sent_and_made_elsewhere(remote):
    job = pickle.loads(pickle.dumps(remote)).make()
    assert job.model.sha256 == remote.request.sha256
    assert job.segmenter.description == remote.request.description
    assert job.out == remote.request.out


def test_another_model_in_the_folder_is_refused(remote, tmp_path, make_model):
    save_model(make_model(num_channels=2), tmp_path / "model")
    with pytest.raises(ModelError, match="is not the one that the run began with"):
        replace(remote, request=replace(remote.request, folder=tmp_path / "model")).make()


def test_without_a_folder_there_is_nothing_to_send(remote):
    with pytest.raises(ValueError, match="needs the model's folder"):
        replace(remote, request=replace(remote.request, folder=None)).make()


def test_processes_that_share_a_machine_share_its_cores_and_memory(remote):
    options = replace(remote.request.options, max_bytes=8 * 10**9)
    remote = replace(remote, request=replace(remote.request, options=options))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        assert remote.make().options.max_bytes == 8 * 10**9
        assert torch.get_num_threads() == 5
        assert replace(remote, num_processes=2).make().options.max_bytes == 4 * 10**9
        assert torch.get_num_threads() == 2
        replace(remote, num_processes=8).make()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
