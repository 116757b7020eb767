"""Each text file that may come from a stranger, distorted: right, or one line, and soon."""

import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cluster.config import read_cluster
from pipeline.config import build_config, load_config, override_settings
from pipeline.errors import PipelineError
from pipeline.evaluation import EvaluationConfig, LabelScores, read_scores, write_scores
from pipeline.evaluation.rules import find_rules
from pipeline.fingerprint import Fingerprint
from pipeline.inputs.bids import is_bids, read_description
from pipeline.manifest import load_manifest
from pipeline.model.description import metadata, parse_description
from pipeline.output import FileRecord, GridRecord, Provenance, Recipe, Timing
from pipeline.output.provenance import load_provenance
from pipeline.pacs.address import read_credentials
from pipeline.selection.evidence import DECISION, Decision, read_decision
from pipeline.system.hashes import check_whole, damaged_in, write_noted
from pipeline.system.spelling import spelled
from pipeline.training import RunConfig
from pipeline.training.recorder import RecordedSplit, parse_settings, read_metrics, read_whole
from pipeline.volume import Grid
from tests.model.described import describe

LONGEST_LINE = 10_000
MOST_SECONDS = 3.0

NNUNET = {
    "channel_names": {"0": "T1", "1": "CT"},
    "labels": {"background": 0, "organ": [1, 2], "core": 2, "ignore": 3},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
    "dataset": {"a": {"images": ["a_0.nii.gz", "a_1.nii.gz"], "label": "a.nii.gz"}},
}
DECATHLON = {
    "name": "x",
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "organ"},
    "training": [{"image": "./a.nii.gz", "label": "./b.nii.gz"}],
    "test": ["./c.nii.gz"],
}
MANIFEST = {
    "name": "x",
    "channels": [{"name": "CT", "modality": "CT"}],
    "labels": {"a": 1, "b": 2},
    "regions": [{"name": "all", "labels": ["a", "b"], "writes": "a"}],
    "codes": {},
    "subject_pattern": "(p[0-9]+)",
    "cases": "list.csv",
}
RUN = {"name": "x", "data": {"manifest": "m.yaml", "root": "."}, "training": {"batch_size": 2}}
CLUSTER = {"kind": "slurm", "workers": 2, "memory": "8 GB", "walltime": "24:00:00"}
PROVENANCE = Provenance(
    case="a",
    recipe=Recipe(
        inputs=(FileRecord(name="a.nii.gz", sha256="0" * 64),),
        model=FileRecord(name="liver", sha256="1" * 64),
        settings={"inference": {"overlap": 0.5, "window": [96, 96, 64]}},
    ),
    outputs={},
    labels={"liver": 1},
    volumes_ml={"liver": 1503.2},
    grid=GridRecord.of(Grid((4, 5, 6), np.diag([-1.0, 1.0, 2.5, 1.0]))),
    warnings=("odd",),
    timing=Timing.of({"load": 0.1}, 120),
    device="cpu",
).model_dump(mode="json")
DECISION_CONTENT = Decision(
    verdict="nothing",
    reason="none",
    num_cases=3,
    num_folds=0,
    nsd_tolerance_mm=1,
    confidence=0.95,
    num_resamples=100,
    versions={},
    seconds=1,
).model_dump(mode="json")
SPLIT = RecordedSplit(train=["a"], validation=["b"], volumes_ml={"a": {"x": 1.0}})
FINGERPRINT = describe().fingerprint.model_dump(mode="json")
METRICS = (
    "epoch,iteration,elapsed_s,learning_rate,loss,wait_share,validation_dice\n1,2,3,0.1,0.5,0,\n"
)
SCORES = LabelScores("a", "organ", *[0.5] * 5, *[1.0] * 4)


def beside(folder, name, text=""):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def of_manifest(path):
    beside(path.parent, "list.csv", "case,image,label\np1,a.nii.gz,b.nii.gz\n")
    load_manifest(path)


def of_decision(path):
    target = path.parent / DECISION
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
    read_decision(path.parent)


def of_description(path):
    read_description(path.parent)
    is_bids(path.parent)


def of_credentials(path):
    path.chmod(0o600)
    read_credentials(path)


def of_hashes(path):
    damaged_in(path.parent)
    check_whole(path.parent / "a.txt", PipelineError, "Do.")


def of_masks(path):
    find_rules({"a": (path, False)}, EvaluationConfig())


def of_sidecar(path):
    find_rules({"a": (path, True)}, EvaluationConfig())


def hashes_text():
    return {"files": {"a.txt": ["0" * 64]}, "sha256": "0" * 64}


JSON_FILES = {
    "dataset.json (nnU-Net)": ("dataset.json", NNUNET, load_manifest),
    "dataset.json (Decathlon)": ("dataset.json", DECATHLON, load_manifest),
    "dataset_description.json": (
        "dataset_description.json",
        {"Name": "x", "BIDSVersion": "1.8.0", "DatasetDOI": "doi:1"},
        of_description,
    ),
    "metadata.json": ("metadata.json", metadata(describe()), parse_description),
    "provenance": ("a_seg.json", PROVENANCE, load_provenance),
    "provenance of scores": ("a_seg.json", PROVENANCE, of_masks),
    "sidecar": ("a.json", {"Manual": False, "Trivox": PROVENANCE}, of_sidecar),
    "decision.json": ("d.json", DECISION_CONTENT, of_decision),
    "hashes.json": ("hashes.json", hashes_text(), of_hashes),
    "split.json": (
        "split.json",
        SPLIT.model_dump(mode="json"),
        lambda path: read_whole(path, RecordedSplit.model_validate_json, "Do."),
    ),
    "fingerprint.json": (
        "fingerprint.json",
        FINGERPRINT,
        lambda path: read_whole(path, Fingerprint.model_validate_json, "Do."),
    ),
}
YAML_FILES = {
    "manifest": ("m.yaml", MANIFEST, of_manifest),
    "configuration": ("c.yaml", RUN, lambda path: load_config(RunConfig, path)),
    "recorded configuration": (
        "config.yaml",
        RUN,
        lambda path: read_whole(path, parse_settings, "Do."),
    ),
    "cluster": ("cluster.yaml", CLUSTER, lambda path: read_cluster(str(path))),
}
OTHER_FILES = {
    "list": (
        "list.csv",
        'case,image:T1,label,split,annotated\na,"a.nii.gz",b.nii.gz,train,x;y\n',
        load_manifest,
    ),
    "scores": ("scores.csv", None, lambda path: read_scores(path.parent)),
    "metrics": ("metrics.csv", METRICS, read_metrics),
    "credentials": ("key", "user:password\n", of_credentials),
}

VALUES = st.sampled_from(
    [
        *(None, True, -1, 0, 2, 10**30, 1e308, math.nan, -math.inf, "", " ", "a", "../../x"),
        *("/dev/zero", "\x1b[31m\u202e", "=1+1", "x" * 5000, "2001-01-01", "$x$", "{x}", "%s"),
        *([], {}, [1, "a", None], {"a": {"b": []}}, [[[[[[]]]]]], [0] * 500),
        {str(i): i for i in range(300)},
    ]
)
WORDS = st.sampled_from(
    [
        *("\x00", "\x1b", "\u2028", '"', "'", ",", ":", "[" * 5000, "]", "{", "}", "\\ud800"),
        *("&a *a", "9" * 5000, "1e999", "!!int x", "!!python/name:os.x", "2001-99-99", "\n"),
        *("\r", "\ufeff", "\t", "- ", "? ", "#", "%", "@", "null", "x" * 70_000, "\n" * 1000),
    ]
)


def places_in(tree, place=()):
    if place:
        yield place
    if not isinstance(tree, dict | list):
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from places_in(value, (*place, key))


@st.composite
def distorted_tree(draw, tree):
    """Return the tree with one to three of its values or keys made into something else."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_in(tree))
        if not places:
            break
        *above, last = draw(st.sampled_from(places))
        target = tree
        for key in above:
            target = target[key]
        what = draw(st.sampled_from(["change", "change", "drop", "rename"]))
        if what == "change" or isinstance(target, list):
            target[last] = copy.deepcopy(draw(VALUES))
        elif what == "drop":
            del target[last]
        else:
            target[draw(st.sampled_from(["", "x\x1b", "0", "=1", "y" * 3000]))] = target.pop(last)
    return tree


@st.composite
def distorted_text(draw, text):
    """Return the text cut, or with something put into it."""
    place = draw(st.integers(0, len(text)))
    match draw(st.sampled_from(["cut", "insert", "insert", "repeat", "bytes"])):
        case "cut":
            return text[:place].encode()
        case "insert":
            return (text[:place] + draw(WORDS) + text[place:]).encode()
        case "repeat":
            return (text[:place] + text * 20 + text[place:]).encode()
    return text[:place].encode() + draw(st.binary(max_size=8)) + text[place:].encode()


def dumped_yaml(tree):
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


FORMATS = {
    **{name: (json.dumps, *rest) for name, rest in JSON_FILES.items()},
    **{name: (dumped_yaml, *rest) for name, rest in YAML_FILES.items()},
    **{name: (None, *rest) for name, rest in OTHER_FILES.items()},
}


def check(read, path, name):
    """Read a file: right, or one line that names it, and soon."""
    start = time.process_time()
    line = told_by(lambda: read(path))
    assert len(line) < LONGEST_LINE
    assert "\n" not in line
    assert time.process_time() - start < MOST_SECONDS, name


def told_by(read):
    try:
        read()
    except PipelineError as error:
        return f"{spelled(str(error))}" if error.found and error.remedy else "\n"
    return ""


@pytest.mark.parametrize("name", FORMATS)
def test_what_strangers_send_is_right_or_one_line(name, tmp_path_factory):
    dump, file, content, read = FORMATS[name]
    folder = tmp_path_factory.mktemp("hostile")
    if content is None:
        write_scores([SCORES], [], folder)
        content = (folder / file).read_text()
    whole = content if dump is None else dump(content)

    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )
    @given(st.data())
    def run(data):
        by_tree = dump is not None and data.draw(st.booleans())
        if by_tree:
            text = dump(data.draw(distorted_tree(content))).encode("utf-8", "surrogatepass")
        else:
            text = data.draw(distorted_text(whole))
        (folder / file).write_bytes(text)
        check(read, folder / file, name)

    (folder / file).write_text(whole, encoding="utf-8")
    check(read, folder / file, name)
    run()


@given(st.sampled_from(["inference.overlap", "study", "labels", "postprocessing.rules"]), WORDS)
@settings(max_examples=40, deadline=None, database=None)
def test_words_of_the_command_line_are_right_or_one_line(key, value):
    word = f"{key}={value}"
    line = told_by(lambda: override_settings(describe(), [word], [key.partition(".")[0]]))
    assert "\n" not in line
    assert len(line) < LONGEST_LINE


def test_a_key_of_many_parts_is_refused():
    with pytest.raises(PipelineError, match="a key of 5000 parts"):
        build_config(RunConfig, {}, [".".join(["a"] * 5000) + "=1"], where="here")


def test_a_file_of_hashes_that_holds_is_whole(tmp_path):
    write_noted(tmp_path / "a.txt", "x")
    of_hashes(Path(tmp_path / "hashes.json"))
