from pathlib import Path

from pipeline.pacs import Result, SegmentFolder
from tests.pacs.studies import ThresholdSegmenter


def test_a_result_does_not_show_the_series():
    assert "1.2.3" not in repr(Result("case", "1.2.3", "done", products=(Path("a_seg.dcm"),)))


def test_a_segmenter_is_anything_that_is_called_with_a_folder(tmp_path):
    segment: SegmentFolder = ThresholdSegmenter(tmp_path)
    assert segment(tmp_path) == []
