import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from pipeline.export.scripts.clean_up import KeepComponentsd
from pipeline.postprocessing import PostprocessingConfig, Rule, postprocess
from pipeline.volume import Grid

AFFINE = np.diag([2.0, 1.0, 1.5, 1.0])


def test_does_what_the_pipeline_does():
    labels = np.random.default_rng(0).choice(4, (12, 11, 10), p=[0.85, 0.05, 0.05, 0.05])
    clean_up = KeepComponentsd(
        "pred",
        [
            {"value": 1, "keep_largest": 2, "min_volume_mm3": 0},
            {"value": 3, "keep_largest": None, "min_volume_mm3": 9},
        ],
    )
    pred = MetaTensor(torch.from_numpy(labels.astype(np.int32))[None], affine=AFFINE)
    found = clean_up({"pred": pred, "other": 1})
    rules = PostprocessingConfig(
        rules=(
            Rule(label="a", keep_largest=2),
            Rule(label="c", min_volume_mm3=9),
        )
    )
    grid = Grid(labels.shape, AFFINE)
    expected = postprocess(
        labels.astype(np.uint8), grid, {"a": 1, "b": 2, "c": 3}, rules
    ).labels_IJK
    assert 0 < np.count_nonzero(expected == 3) < np.count_nonzero(labels == 3)
    np.testing.assert_array_equal(found["pred"][0].numpy(), expected)
    np.testing.assert_array_equal(found["pred"].affine.numpy(), AFFINE)
    assert found["other"] == 1
