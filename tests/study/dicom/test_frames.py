from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.study.dicom.frames import Facts
from tests.dicom_files import make_enhanced, make_slice, positions_along, voxels


def test_an_image_of_one_frame_has_facts_at_its_top():
    facts = Facts(make_slice(voxels(1)[0], EchoTime=4.5), 0)
    assert facts.get("EchoTime") == 4.5
    assert list(facts.get("PixelSpacing")) == [2.0, 1.5]
    assert facts.get("StackID") is None


def test_a_frame_overrides_what_is_shared():
    def spacing(index):
        return {"PixelMeasuresSequence": {"PixelSpacing": [9.0, 9.0]}} if index == 1 else {}

    dataset = make_enhanced(voxels(3), positions_along(count=3), each=spacing)
    assert [list(Facts(dataset, f).get("PixelSpacing")) for f in range(3)] == [
        [2.0, 1.5],
        [9.0, 9.0],
        [2.0, 1.5],
    ]
    assert [Facts(dataset, f).get("ImagePositionPatient")[2] for f in range(3)] == [30, 33, 36]
    assert [Facts(dataset, f).get("RescaleSlope") for f in range(3)] == [1, 2, 3]


def test_types_and_gradients_of_frames_are_found():
    def groups(index):
        return {"MRImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "M", str(index)]}}

    dataset = make_enhanced(voxels(2), positions_along(count=2), each=groups, modality="MR")
    assert Facts(dataset, 1).get("ImageType")[3] == "1"
    assert Facts(dataset, 0).get("DiffusionGradientOrientation") is None
    direction, diffusion = Dataset(), Dataset()
    direction.DiffusionGradientOrientation = [0.0, 0.0, 1.0]
    diffusion.DiffusionGradientDirectionSequence = Sequence([direction])
    dataset.PerFrameFunctionalGroupsSequence[1].MRDiffusionSequence = Sequence([diffusion])
    assert list(Facts(dataset, 1).get("DiffusionGradientOrientation")) == [0, 0, 1]


def test_the_top_of_a_file_of_frames_does_not_place_them():
    dataset = make_enhanced(voxels(2), positions_along(count=2))
    dataset.PixelSpacing = [7.0, 7.0]
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert Facts(dataset, 0).get("PixelSpacing") is None


def test_a_rescale_at_the_top_counts_where_frames_have_none():
    dataset = make_enhanced(voxels(2), positions_along(count=2))
    dataset.RescaleSlope, dataset.RescaleIntercept = 4, -3
    del dataset.PerFrameFunctionalGroupsSequence[0].PixelValueTransformationSequence
    assert [Facts(dataset, 0).get(f"Rescale{name}") for name in ("Slope", "Intercept")] == [4, -3]
    assert Facts(dataset, 1).get("RescaleSlope") == 2
