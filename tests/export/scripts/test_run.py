import pytest
import torch

from pipeline.export.scripts.run import segment_all

CPU = torch.device("cpu")


class Studies:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            try:
                raise OSError("torn file")
            except OSError as error:
                raise RuntimeError("applying transform LoadImaged") from error
        return {"image": torch.full((1, 2, 2, 2), float(index))}


def infer(image, network):
    return network(image)


def test_a_broken_study_does_not_stop_the_others(caplog):
    written = []
    with pytest.raises(SystemExit, match="1 of 3 studies have no mask"):
        segment_all(Studies(), lambda x: 2 * x, infer, written.append, "fp32", CPU)
    assert [study["pred"].unique().tolist() for study in written] == [[0], [4]]
    assert [study["pred"].shape for study in written] == [(1, 2, 2, 2)] * 2
    assert "study 2 of 3: torn file" in caplog.text


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_is_that_of_the_network(precision, dtype):
    written = []
    layer = torch.nn.Conv3d(1, 1, 1)
    study = [{"image": torch.ones(1, 2, 2, 2)}]
    segment_all(study, layer, infer, written.append, precision, CPU)
    assert written[0]["pred"].dtype == dtype


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match="'fp8' is none of fp32, bf16, fp16"):
        segment_all([], torch.nn.Identity(), infer, print, "fp8", CPU)
