"""Whatever Trivox wrote and reads again may be damaged: it is told by name, or made again.

Which files those are is not listed here but seen: an audit hook records what each verb opens.

Source: docs.python.org/3/library/audit_events.html.
"""

import os
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.cohort import own_process
from pipeline.cohort.own_process import Here

CONFIG = """
name: run
output: {root}/world/runs
device: cpu
data: {{manifest: {root}/data/manifest.yaml, cache: {root}/world/cache}}
preprocessing: {{spacing_mm: [1, 1, 1]}}
network: {{features: [2, 4, 4]}}
training:
  max_iterations: 2
  iterations_per_epoch: 2
  patch_size: [8, 8, 8]
  batch_size: 1
  num_workers: 0
  precision: fp32
  layout: contiguous
  num_validation_cases: 0
inference: {{precision: fp32}}
evaluation: {{num_resamples: 2}}
"""
MANIFEST = """
name: damage
channels: [{name: T1, modality: MR}]
labels: {organ: 1}
cases: cases.csv
"""
CASES = "case,image,label,split\n" + "".join(
    f"c{n},i{n}.nii,l{n}.nii,{'train' if n < 2 else 'validation'}\n" for n in range(3)
)


class Watch:
    """Records what is opened, while it is asked to: a hook cannot be removed."""

    def __init__(self):
        self.opened = None
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if self.opened is not None and event in ("open", "sqlite3.connect"):
            path = arguments[0]
            self.opened.append(os.fsdecode(path) if isinstance(path, bytes) else str(path))


@dataclass(frozen=True)
class World:
    """A folder in which Trivox was at work.

    Attributes:
        root: Holds `data`, which is the user's, `world`, which Trivox made, and `whole`, its copy.
        verbs: Command lines that read it again, by name.
        reads: Files in `world` that each opens.
        outcomes: What each leaves where nothing is damaged.
    """

    root: Path
    verbs: dict[str, list[str]]
    reads: dict[str, list[str]]
    outcomes: dict[str, object]

    def restore(self):
        shutil.rmtree(self.root / "world", ignore_errors=True)
        shutil.copytree(self.root / "whole", self.root / "world")


def make_data(folder):
    folder.mkdir()
    (folder / "manifest.yaml").write_text(MANIFEST)
    (folder / "cases.csv").write_text(CASES)
    for number in range(3):
        voxels = np.random.default_rng(number).normal(100, 10, (12, 11, 10)).astype(np.float32)
        labels = np.zeros(voxels.shape, np.uint8)
        labels[3:9, 3:8, 2:7] = 1
        for name, array in (("i", voxels + 50 * labels), ("l", labels)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}{number}.nii")
    (folder / "studies").mkdir()
    shutil.copy(folder / "i2.nii", folder / "studies" / "s.nii")


def outcome(root, said):
    """Return what must not depend on damage: weights, masks, and what is said."""
    changing = r"\S*\d+(\.\d+)? ?(s|min)\b|\d\d:\d\d:\d\d|\d{4}-\S+"
    found = {"said": re.sub(changing, "", said)}
    for path in sorted((root / "world").rglob("*")):
        if ".trivox" in path.parts:
            continue
        if path.suffix == ".safetensors":
            found[path.name] = path.read_bytes()
        elif path.name.endswith("_seg.nii.gz"):
            found[path.name] = np.asarray(nib.load(path).dataobj).tobytes()
        elif path.name in ("cohort.csv", "volumetry.csv", "scores.csv"):
            found[path.name] = re.sub(r"\d+\.\d+", "", path.read_text())
    return found


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_process, "OwnProcess", lambda remote, *_: Here(remote.make()))
        yield


@pytest.fixture(scope="module")
def world(patched, tmp_path_factory):
    root = tmp_path_factory.mktemp("damage")
    make_data(root / "data")
    (root / "run.yaml").write_text(CONFIG.format(root=root))
    parts = ("run.yaml", "world/runs/run/model", "world/out", "data/studies")
    config, model, out, studies = (str(root / part) for part in parts)
    segment = ["segment", studies, "--model", model, "--out", out, "--device", "cpu"]
    assert main(["train", config]) == 0
    assert main(segment) == 0
    shutil.copytree(root / "world", root / "whole")
    record = f"{out}/s_seg.json"
    verbs = {
        "train": ["train", config, "--resume", "training.max_iterations=3"],
        "train another": ["train", config, "name=another"],
        "segment": segment,
        "segment anew": [*segment, "inference.overlap=0.3"],
        "status": ["status", out],
        "show": ["show", model],
        "search": ["postprocess-search", model],
        "reproduce": ["reproduce", record, "--model", model, "--input", f"{studies}/s.nii"],
    }
    made = World(root, verbs, {}, {})
    watch = Watch()
    for verb, words in verbs.items():
        made.restore()
        watch.opened = []
        code, said, _ = run(made, verb)
        opened, watch.opened = watch.opened, None
        assert code in (0, 1), words
        made.outcomes[verb] = outcome(root, said)
        inside = {path.partition(f"{root}/world/")[2].partition("?")[0] for path in opened}
        made.reads[verb] = sorted(name for name in inside if (root / "whole" / name).is_file())
    return made


def run(world, verb):
    """Run a verb; return its exit code, its results and what else it said."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(world.verbs[verb])
    return code, out.getvalue(), err.getvalue()


READERS = ("status", "show", "reproduce")
"""Verbs of which only counts what they say."""


def flip(content, share):
    place = int(share * (len(content) - 1))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "bit": lambda content: flip(content, 0.5),
    "cut": lambda content: content[: len(content) * 9 // 10],
    "empty": lambda content: b"",
    "text": lambda content: b"once upon a time",
    "first bit": lambda content: flip(content, 0),
    "early bit": lambda content: flip(content, 0.2),
    "late bit": lambda content: flip(content, 0.8),
    "last bit": lambda content: flip(content, 1),
}


def harm(world, verb, name, damage):
    """Damage a file, run a verb that reads it; return what is wrong, or None."""
    world.restore()
    path = world.root / "world" / name
    content = path.read_bytes()
    if not content:
        return None
    path.write_bytes(DAMAGES[damage](content))
    what = f"{verb}, {name}, {damage}"
    try:
        code, out, err = run(world, verb)
    except Exception as error:  # noqa: BLE001 (whatever it is, users would see a traceback)
        return f"{what}: {error!r}"
    said = out + err
    if "Traceback" in said:
        return f"{what}: a traceback"
    if code and path.name not in said and path.parent.name not in said:
        return f"{what}: not named, but {said.splitlines()[-1:]}"
    if code:
        return None
    found, expected = outcome(world.root, out), world.outcomes[verb]
    differ = [key for key in {*found, *expected} if found.get(key) != expected.get(key)]
    if verb not in READERS and "said" in differ:
        differ.remove("said")  # As that something is made again.
    if differ:
        return f"{what}: used; {differ} differ; {said.splitlines()[-4:]}"
    return None


def kind(name):
    """Return what a file has in common with those that are read and written by the same lines."""
    path = Path(name)
    return path.suffix if path.suffix in (".sha256", ".png") else path.name


def test_what_is_read_again_and_damaged_is_told_or_made_again(world):
    """A sample: a file of each kind, with one of four damages, read by the first verb that does."""
    verb_of = {name: verb for verb in reversed(world.verbs) for name in world.reads[verb]}
    one_of = {kind(name): name for name in sorted(verb_of, reverse=True)}
    assert len(one_of) > 25
    kinds = list(DAMAGES)[:4]
    wrong = [
        harm(world, verb_of[name], name, kinds[number % 4])
        for number, name in enumerate(sorted(one_of.values()))
    ]
    assert not [each for each in wrong if each], "\n".join(each for each in wrong if each)
