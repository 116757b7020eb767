import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from pipeline.export.scripts.intensity import ScaleByPercentilesd
from pipeline.transforms import ChannelNormalisation
from pipeline.transforms.preprocess import normalise


@pytest.mark.parametrize(("robust", "kind"), [(True, "zscore_robust"), (False, "percentile")])
def test_the_same_as_trivox(robust, kind):
    image = torch.randn(1, 9, 8, 7).clamp_min(0)
    data = {"image": MetaTensor(image, meta={"filename_or_obj": "a.nii"}), "other": 1}
    found = ScaleByPercentilesd("image", robust)(data)
    expected = normalise(image[0], ChannelNormalisation(kind=kind))
    assert torch.equal(found["image"].as_tensor()[0], expected)
    assert found["image"].meta["filename_or_obj"] == "a.nii"
    assert found["other"] == 1
