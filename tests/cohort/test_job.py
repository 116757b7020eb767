import torch

from pipeline.cohort import SegmentOptions
from pipeline.cohort.request import Job
from pipeline.output.dicom import DicomOutputConfig

CPU = torch.device("cpu")


def test_dicom_outputs_need_to_know_the_algorithm(model, tmp_path):
    assert Job.of(model, CPU, tmp_path, SegmentOptions()).algorithm is None
    with_dicom = SegmentOptions(dicom=DicomOutputConfig())
    assert Job.of(model, CPU, tmp_path, with_dicom).algorithm is not None


def test_the_memory_allowed_is_the_segmenters(model, tmp_path):
    job = Job.of(model, CPU, tmp_path, SegmentOptions(max_bytes=12345))
    assert job.segmenter._budget.max_bytes == 12345
    assert job.alive() is None, "nobody needs to listen"
