"""Exit code 2: whatever the user must change before any study is looked at, verb by verb."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.errors import PipelineError, StudyError, work_begun
from pipeline.model import save_model
from pipeline.system import processes
from tests.conftest import TINY_RUN
from tests.tiny import tiny_model

TO_CHANGE = """
train none.yaml
train bad.yaml
train empty
train lost.yaml
train tiny.yaml training.max_minuts=1
train tiny.yaml device=cuda:99
train tiny.yaml --from empty
train tiny.yaml --from torn
train tiny.yaml output=file
train tiny.yaml data.root=file
segment none --model model --out o
segment empty --model model --out o
segment bad.csv --model model --out o
segment bad.json --model model --out o
segment gone.csv --model model --out o --root none
segment a.nii.gz --model model --out o --root empty
segment a.nii.gz --model none --out o
segment a.nii.gz --model empty --out o
segment a.nii.gz --model model --out file
segment a.nii.gz --model model --out file/x
segment a.nii.gz --model model --out damaged
segment a.nii.gz --model model --out o --max-memory much
segment a.nii.gz --model model --out o --series best
segment a.nii.gz --model model --out o --cluster none.yaml
segment a.nii.gz --model model --out o --cluster bad.yaml
segment a.nii.gz --model model --out o inference.overlap=3
segment a.nii.gz --model model --out o network.name=unet
segment a.nii.gz --model model --out o --hung-after 0
segment a.nii.gz --model model
status none
status empty
status damaged
evaluate --predictions none --references masks --out o
evaluate --predictions masks --references empty --out o
evaluate --predictions masks --references masks --out file
evaluate --predictions masks --references masks --out o nsd_tolerance_mm=-1
check none
check empty
check bad.csv
check bad.yaml
check gone.csv --root none
check a.nii.gz --root empty
check a.nii.gz --model none
plan none.yaml --out p.yaml
plan bad.csv --out p.yaml
plan gone.csv --out p.yaml
plan gone.csv --out empty
plan gone.csv --out p.yaml --memory much
plan gone.csv --out p.yaml --minutes -1
plan gone.csv --out p.yaml --device abacus
export none --to bundle --out o
export torn --to bundle --out o
export model --to bundle --out file
export model --to paper --out o
postprocess-search none
postprocess-search model
show none
show model a.b=1
refine --image none.nii.gz --labels masks/a.nii.gz --out o.nii.gz
refine --image a.nii.gz --labels none.nii.gz --out o.nii.gz
refine --image a.nii.gz --labels masks/a.nii.gz --out o.txt
refine --image a.nii.gz --labels masks/a.nii.gz --out a.nii.gz
refine --image a.nii.gz --labels masks/a.nii.gz --out o.nii.gz --device abacus
refine --image a.nii.gz --labels masks/a.nii.gz --out o.nii.gz band_m=1
reproduce none.json
reproduce bad.json
reproduce empty
slurm none --model model --out s
slurm a.nii.gz --model none --out s
slurm a.nii.gz --model model --out file
slurm a.nii.gz --model model --out s --workers 0
slurm a.nii.gz --model model --out s --series best
slurm a.nii.gz --model model --out s --device abacus
slurm a.nii.gz --model model --out s --max-memory much
slurm a.nii.gz --model model --out s inference.overlap=3
pacs --archive http://127.0.0.1:9/x --model model --out o
pacs --archive http://127.0.0.1:9/x --all --out o
pacs --archive http://127.0.0.1:9/x --all --model none --out o
pacs --archive http://127.0.0.1:9/x --all --model model --out file
pacs --archive http://127.0.0.1:9/x --all --model model --out o --credentials none
pacs --archive http://127.0.0.1:9/x --all --model model --out o --max-memory much
pacs --archive http://127.0.0.1:9/x --all --dry-run
pacs --archive nowhere --all --model model --out o
""".strip().splitlines()

LOOKED_AT = """
check broken.nii.gz
check gone.csv
evaluate --predictions masks --references more --out scores
refine --image broken.nii.gz --labels masks/a.nii.gz --out o.nii.gz
""".strip().splitlines()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    save_model(tiny_model(), folder / "model")
    shutil.copytree(folder / "model", folder / "torn")
    (folder / "torn" / "models" / "model.safetensors").write_bytes(b"torn")
    voxels = np.random.default_rng(0).normal(100, 20, (9, 9, 9)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "a.nii.gz")
    mask = nib.Nifti1Image((voxels > 100).astype(np.uint8), np.eye(4))
    for place in ("empty", "masks", "more", "damaged/.trivox"):
        (folder / place).mkdir(parents=True)
    for place in ("masks/a.nii.gz", "more/a.nii.gz", "more/b.nii.gz"):
        nib.save(mask, folder / place)
    tiny = TINY_RUN.format(folder=".")
    phantom = "phantom: {kind: ct, num_train: 3, num_validation: 2}"
    texts = {
        "file": "x",
        "broken.nii.gz": "",
        "bad.yaml": "a: [1",
        "bad.csv": "imag\nx\n",
        "bad.json": "{",
        "gone.csv": "image\nnone.nii.gz\n",
        "tiny.yaml": tiny,
        "lost.yaml": tiny.replace(phantom, "manifest: none.yaml"),
        "damaged/.trivox/journal.sqlite": "no database" * 100,
    }
    assert phantom in tiny
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def run(home, monkeypatch):
    """Run a command line; nothing that ends before its work may need a process."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(processes, "warm_up", lambda: None)

    def run(line):
        try:
            return main(line.split())
        except SystemExit as ended:
            return ended.code

    return run


@pytest.mark.parametrize("line", TO_CHANGE)
def test_what_must_be_changed_first_ends_with_2(run, line, capsys):
    assert run(line) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("trivox")
    assert "Error" not in said.removeprefix(f"trivox {line.split()[0]}: error")


@pytest.mark.parametrize("line", LOOKED_AT)
def test_studies_that_are_not_done_end_with_1(run, line):
    assert run(line) == 1


def test_work_that_is_broken_off_ends_with_1():
    with pytest.raises(PipelineError) as found, work_begun():
        raise PipelineError("the archive", "it is gone", "Wait.")
    assert found.value.exit_code == 1
    assert PipelineError("a", "b", "c").exit_code == 2
    assert StudyError("a", "b", "c").exit_code == 1
