import highdicom
import numpy as np

from pipeline.cohort import StudyInput
from pipeline.cohort.dicom_outputs import write_dicom
from pipeline.cohort.outputs import Outputs
from pipeline.dicom_out import Algorithm, DicomOutputConfig
from pipeline.study import find_series
from pipeline.volume import LabelMap
from tests.dicom_files import make_enhanced, positions_along, save, voxels


def test_each_volume_of_a_multi_frame_file_has_its_segmentation(tmp_path):
    """Two b-values in turns, as an enhanced diffusion series has them."""
    made = make_enhanced(
        voxels(8),
        [place for place in positions_along(count=4) for _ in "ab"],
        each=lambda index: {"MRDiffusionSequence": {"DiffusionBValue": 800.0 * (index % 2)}},
        modality="MR",
    )
    save(made, tmp_path / "one")
    algorithm = Algorithm("toy", "0" * 64, {"organ": 1})
    for number, series in enumerate(find_series([tmp_path / "one"])):
        outputs = Outputs(tmp_path, f"case{number}")
        label_map = LabelMap(np.ones(series.grid.shape, np.uint8), series.grid.affine)
        study = StudyInput("case", (series,))
        write_dicom(study, label_map, outputs, algorithm, DicomOutputConfig())
        assert outputs.dicom_report.exists()
        segmentation = highdicom.seg.segread(outputs.dicom_segmentation)
        frames = [
            groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
            for groups in segmentation.PerFrameFunctionalGroupsSequence
        ]
        assert sorted(frames) == [number + 1, number + 3, number + 5, number + 7]
