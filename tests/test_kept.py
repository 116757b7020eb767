"""Whatever a verb writes, a file of a person's that lies there is kept, or refused by its name.

What a verb writes is found by running it in an empty place and looking at what appears; then it is
run where a person's files have all those names already.
"""

import ast
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.model import save_model
from pipeline.phantom import PhantomConfig, make_cohort
from pipeline.system.ownership import REPLACED
from pipeline.system.private import PRIVATE
from tests.conftest import TINY_RUN
from tests.tiny import tiny_model

PACKAGE = Path(__file__).parent.parent / "pipeline"

RANDOM = (".writing-", "keys-", "events.out.tfevents", f"{PRIVATE}/incoming", REPLACED)
"""Parts of names that differ from run to run, so that nothing can lie there."""


def theirs(path):
    """The content of a person's file, which tells it from all others."""
    return f"a person made this, and it lies at {path}\n".encode()


@pytest.fixture(scope="session")
def given(tmp_path_factory):
    """What verbs read: images, masks of them, a model."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    for name in ("scans/a", "masks/a", "references/a"):
        (folder / name).parent.mkdir()
        voxels = rng.normal(100, 20, (12, 11, 10)).astype(np.float32)
        if name != "scans/a":
            voxels = (voxels > 100).astype(np.uint8)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{name}.nii.gz")
    anat = folder / "bids" / "sub-1" / "anat"
    anat.mkdir(parents=True)
    shutil.copy(folder / "scans" / "a.nii.gz", anat / "sub-1_T1w.nii.gz")
    text = '{"Name": "demo", "BIDSVersion": "1.8.0"}'
    (folder / "bids" / "dataset_description.json").write_text(text)
    save_model(tiny_model(), folder / "model")
    make_cohort(folder / "cohort", PhantomConfig(num_train=2, num_validation=1))
    return folder


@dataclass(frozen=True)
class Verb:
    """How to run a verb so that all it writes lies in one place.

    Attributes:
        words: Of the command line, given what it reads and the place.
        again: Words that make the same command write anew what it has written.
        prepare: Puts into the place what must be there before.
    """

    words: Callable[[Path, Path], list[str]]
    again: tuple[str, ...] = ()
    prepare: Callable[[Path, Path], None] = lambda given, place: None

    def run(self, given, place, *more):
        """Run it; return the exit code."""
        return main([*self.words(given, place), *more])


def evaluate(given, place):
    folders = [f"--predictions={given / 'masks'}", f"--references={given / 'references'}"]
    return ["evaluate", *folders, f"--out={place / 'out'}"]


def refine(given, place):
    files = [f"--image={given / 'scans' / 'a.nii.gz'}", f"--labels={given / 'masks' / 'a.nii.gz'}"]
    outs = [f"--out={place / 'out' / 'a.nii.gz'}", f"--picture={place / 'out' / 'a.png'}"]
    return ["refine", *files, *outs, "iterations=1"]


def slurm(given, place):
    model, out = f"--model={given / 'model'}", f"--out={place / 'out'}"
    return ["slurm", str(given / "scans"), model, out]


def segment(given, place):
    inputs = [str(given / "scans"), str(given / "bids")]
    model, out = f"--model={given / 'model'}", f"--out={place / 'out'}"
    wanted = ["--probabilities", "--pictures", "--device=cpu"]
    return ["segment", *inputs, model, out, *wanted]


def export(given, place):
    return ["export", str(given / "model"), "--to=bundle", f"--out={place / 'out'}"]


def train(given, place, *more):
    short = ["training.max_iterations=2", "training.iterations_per_epoch=1"]
    short += ["data.phantom.num_train=2", "data.phantom.num_validation=1"]
    return ["train", str(given / "tiny.yaml"), *_at(place), *short, *more]


def _at(place):
    return [f"data.root={place}/cohort", f"data.cache={place}/cache", f"output={place}/runs"]


def write_tiny(given, place):
    (given / "tiny.yaml").write_text(TINY_RUN.format(folder=place), encoding="utf-8")


def cross_validate(given, place):
    """Of a cohort that is there already; that one is made is tried by `train`."""
    data = ["data.phantom=", "data.root=", f"data.manifest={given}/cohort/manifest.yaml"]
    more = ["fold=all", "folds=2", "training.search_postprocessing=false"]
    made = ("data.phantom", "data.root")
    return [*(word for word in train(given, place) if not word.startswith(made)), *data, *more]


def plan(given, place):
    manifest = place / "cohort" / "manifest.yaml"
    return ["plan", str(manifest), f"--out={place / 'mine.yaml'}", "--no-measure", "--device=cpu"]


def copy_cohort(given, place):
    shutil.copytree(given / "cohort", place / "cohort")


def reproduce(given, place):
    return ["reproduce", str(place / "out" / "a_seg.json"), "--device=cpu"]


def search(given, place):
    return ["postprocess-search", str(place / "runs" / "tiny" / "model"), "--device=cpu"]


def trained(given, place):
    """Trained once: the run knows where its data lie, wherever it is copied to."""
    if not (given / "trained").exists():
        write_tiny(given, given / "trained")
        assert main(train(given, given / "trained")) == 0
    shutil.copytree(given / "trained", place, dirs_exist_ok=True)


def segmented(given, place):
    assert main(segment(given, place)[:2] + segment(given, place)[3:]) == 0


QUICK = {
    "evaluate": Verb(evaluate, ("nsd_tolerance_mm=3",)),
    "slurm": Verb(slurm, ("--workers=3",)),
    "refine": Verb(refine, ("--replace",)),
}
SLOW = {
    "segment": Verb(segment, ("inference.overlap=0.25",)),
    "export": Verb(export),
    "plan": Verb(plan, ("--replace",), prepare=copy_cohort),
    "train": Verb(train, ("--resume", "training.max_iterations=3"), prepare=write_tiny),
    "cross_validate": Verb(
        cross_validate, ("--resume", "training.max_iterations=3"), prepare=write_tiny
    ),
    "postprocess-search": Verb(search, prepare=trained),
    "reproduce": Verb(reproduce, prepare=segmented),
}
VERBS = QUICK | SLOW
ALL_WAYS = (*QUICK, "segment")
"""Verbs that are tried with folders and links too; the others write by the same ways."""


def of(names, *more):
    """Return what to try a test with; what takes long is marked so."""
    marks = {name: [pytest.mark.slow] if name in SLOW else [] for name in names}
    return [pytest.param(name, *more, marks=marks[name]) for name in names]


_watched: list[Path] = []
_touched: set[Path] = set()


def _watch(event, args):
    """Note what this process opens to write or renames, since some of it goes again."""
    if not _watched or event not in ("open", "os.rename"):
        return
    if event == "open" and not (isinstance(args[1], str) and set(args[1]) & set("wax+")):
        return
    for name in args[:1] if event == "open" else args[:2]:
        if isinstance(name, str | bytes):
            path = Path(os.fsdecode(name)).absolute()
            if path.is_relative_to(_watched[-1]):
                _touched.add(path)


sys.addaudithook(_watch)


def files_in(place):
    return {path for path in place.rglob("*") if path.is_symlink() or not path.is_dir()}


@pytest.fixture(scope="module")
def traced(given, tmp_path_factory):
    """Return what a verb writes, by paths in its place; each verb is run once."""
    found = {}

    def trace(name):
        if name not in found:
            place = tmp_path_factory.mktemp(f"traced_{name}")
            VERBS[name].prepare(given, place)
            before = files_in(place)
            _watched.append(place)
            try:
                assert VERBS[name].run(given, place) == 0
            finally:
                _watched.pop()
            touched = {p for p in _touched if p.is_relative_to(place) and not p.is_dir()}
            wrote = {str(p.relative_to(place)) for p in (files_in(place) | touched) - before}
            found[name] = sorted(n for n in wrote if not any(part in n for part in RANDOM))
        return found[name]

    return trace


def is_kept(place, name):
    """Tell whether a person's file is where it was, or set aside with the same content."""
    content = theirs(name)
    places = [place / name, place / name / "notes", place.parent / "elsewhere" / place.name / name]
    if any(path.is_file() and content in path.read_bytes() for path in places):
        return True
    kept = (path for folder in place.rglob("replaced") for path in folder.rglob("*"))
    return any(path.is_file() and content in path.read_bytes() for path in kept)


def run_until_done(verb, given, folder, names, plant, capsys, *, changed=False):
    """Run a verb where a person's files lie; take away those that it refuses, one by one.

    Args:
        changed: Whether the verb has run there before.
    """
    left, before = list(names), folder / "before"
    before.mkdir()
    verb.prepare(given, before)
    if changed:
        assert verb.run(given, before) == 0
    for number in range(len(names) + 1):
        place = folder / str(number)
        shutil.copytree(before, place, symlinks=True)
        for name in left:
            plant(place, name)
        capsys.readouterr()
        code = verb.run(given, place, *(verb.again if changed else ()))
        said = capsys.readouterr().err
        lost = [name for name in left if not is_kept(place, name)]
        assert not lost, said
        if code == 0:
            return
        named = [name for name in left if Path(name).name in said]
        if changed and not named and str(place) in said:
            return  # Refused for what the verb itself left there, so nothing is touched.
        assert named, f"nothing that lies there is named: {said}"
        left = [name for name in left if name not in named]
    pytest.fail(f"still refused: {said}")


def put(place, name):
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(theirs(name))


def put_folder(place, name):
    (place / name).unlink(missing_ok=True)
    (place / name).mkdir(parents=True)
    (place / name / "notes").write_bytes(theirs(name))


def put_link(place, name):
    elsewhere = place.parent / "elsewhere" / place.name
    put(elsewhere, name)
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).unlink(missing_ok=True)
    (place / name).symlink_to(elsewhere / name)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        *of(VERBS, put),
        *of(ALL_WAYS, put_folder),
        *of(ALL_WAYS, put_link),
    ],
)
def test_what_lies_there_is_kept_or_refused_by_name(name, plant, given, traced, tmp_path, capsys):
    names = traced(name)
    assert names or name == "reproduce"
    run_until_done(VERBS[name], given, tmp_path, names, plant, capsys)


@pytest.mark.parametrize("name", of(ALL_WAYS))
def test_a_file_in_the_place_of_a_folder_is_kept_too(name, given, traced, tmp_path, capsys):
    folders = {str(above) for each in traced(name) for above in Path(each).parents} - {"."}
    for depth in {each.count("/") for each in folders}:
        (tmp_path / str(depth)).mkdir()
        at_once = [each for each in folders if each.count("/") == depth]
        run_until_done(VERBS[name], given, tmp_path / str(depth), at_once, put, capsys)


@pytest.mark.parametrize("name", of([name for name in VERBS if name != "cross_validate"]))
def test_what_a_person_changed_is_kept_or_refused_by_name(name, given, traced, tmp_path, capsys):
    run_until_done(VERBS[name], given, tmp_path, traced(name), put, capsys, changed=True)


GUARDED = {
    "system/ownership.py": "sets aside what is not ours",
    "system/files.py": "asks `ownership` first, and sweeps its own temporary folders",
    "system/private.py": "removes a lock that it has just taken",
    "patches/cache.py": "sets aside what is not whole",
    "inputs/naming.py": "a new salt takes no other file's place",
    "output/places.py": "removes what the provenance names by its hash",
    "pacs/folders.py": "removes what was pulled",
    "pacs/pull.py": "removes what was pulled",
}
"""Modules that remove or rename by themselves, and why no file of a person's is among it."""

DESTROYING = ("unlink", "rmtree", "rmdir", "rename", "replace", "move", "copyfile", "copytree")


def test_nobody_else_removes_or_renames():
    found = set()
    for module in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            # `replace` of texts takes two arguments, that of data classes takes keywords.
            of_a_path = len(node.args) == 1 and not node.keywords
            if node.func.attr in DESTROYING and (node.func.attr != "replace" or of_a_path):
                found.add(str(module.relative_to(PACKAGE)))
    assert {name for name in found if not name.startswith("export/scripts/")} == set(GUARDED)
