"""Whatever a value is in place of what it should be, the message speaks of the user's own words."""

import copy
import re
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from pipeline.cluster.config import SlurmConfig, SshConfig
from pipeline.errors import PipelineError
from pipeline.evaluation import EvaluationConfig
from pipeline.gate import AdmissionConfig
from pipeline.manifest.decathlon import _DecathlonFile
from pipeline.manifest.faults import first_fault, in_words
from pipeline.manifest.nnunet import _NnunetFile
from pipeline.manifest.yaml_manifest import ManifestFile
from pipeline.planning.rules import PlanConfig
from pipeline.system.documents import kind_in_words
from pipeline.training import RunConfig

CODE = "[a, SCT, b]"
WHOLE = {
    RunConfig: """
        name: a
        data: {manifest: m}
        training: {max_minutes: 1, crf: {}}
        network: {features: [8, 8, 8], kernel_sizes: [[1, 3, 3], [3, 3, 3], [3, 3, 3]]}
        postprocessing: {rules: [{label: a, keep_largest: 1}]}
        """,
    PlanConfig: "{manifest: m, out: o}",
    EvaluationConfig: "{}",
    ManifestFile: f"""
        name: a
        channels: [{{name: T1, modality: MR}}]
        labels: {{liver: 1}}
        codes: {{liver: {{type: {CODE}}}}}
        regions: [{{name: all, labels: [liver], writes: liver}}]
        cases: cases.csv
        """,
    _DecathlonFile: """
        {modality: {"0": CT}, labels: {"1": a}, training: [{image: a, label: b}], test: [c]}
        """,
    _NnunetFile: """
        channel_names: {"0": T1}
        labels: {background: 0, a: 1, whole: [1, 2]}
        regions_class_order: [1, 2]
        file_ending: .nii.gz
        dataset: {x: {images: [a], label: b}}
        """,
    SlurmConfig: "{kind: slurm, workers: 1, memory: 8GB}",
    SshConfig: "{kind: ssh, hosts: [a], tls: {ca: a, cert: b, key: c}}",
}
WRONG = (
    5,
    -1,
    0.5,
    "word",
    "",
    None,
    True,
    [],
    [5, "x", None],
    {"word": 5},
    {5: [None]},
    [[["x"]]],
)


def names_of_classes():
    def below(kind):
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    return {kind.__name__ for kind in below(BaseModel) if kind.__module__.startswith("pipeline")}


CHECKERS_WORDS = re.compile(
    r"\.(int|str|float|bool|list|dict|tuple|path|none|constrained)\b|function-|tuple\[|list\[|dict\["
    r"|literal\[|lax-or|is-instance|\[key\]|Input |valid dictionary|instance of|<class|Error\b"
)
CLASSES = re.compile(rf"\b({'|'.join(sorted(names_of_classes() - {'Case', 'Code', 'Level'}))})\b")


def places(tree, at=()):
    yield at
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places(tree[key], (*at, key))


def fields(model, at=()):
    """All keys of a configuration, those without a value of their own included."""
    for name, field in model.model_fields.items():
        yield (*at, name)
        kinds = (field.annotation, *get_args(field.annotation))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields(kind, (*at, name))


def with_value(tree, place, value):
    tree = copy.deepcopy(tree)
    inner = tree
    for part in place[:-1]:
        if isinstance(inner, list) and not isinstance(part, int):
            inner = inner[0]
        if isinstance(inner, dict) and not isinstance(inner.get(part), dict | list):
            inner[part] = {}
        inner = inner[part]
    if isinstance(inner, list) and not isinstance(place[-1], int):
        inner = inner[0]
    inner[place[-1]] = value
    return tree


@pytest.mark.parametrize("model", WHOLE, ids=lambda model: model.__name__)
def test_no_message_speaks_of_types_and_classes(model):
    tree = yaml.safe_load(WHOLE[model])
    model.model_validate(tree)
    everywhere = {*fields(model), *(place for place in places(tree) if place)}
    num_faults = 0
    for place in everywhere:
        for value in WRONG:
            data = with_value(tree, place, value)
            try:
                model.model_validate(data)
            except ValidationError as error:
                text = str(first_fault(error, model, data))
            except PipelineError as error:
                text = str(error)
            else:
                continue
            num_faults += 1
            assert not CHECKERS_WORDS.search(text), text
            assert not CLASSES.search(text), text
            assert "\n" not in text
            assert str(place[0]) in text, f"{text} does not name {place}"
    assert num_faults > 5 * len(everywhere) / 2


def fault_of(model, **data):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    return first_fault(caught.value, model, data)


def test_all_kinds_that_a_value_may_have_are_named():
    fault = fault_of(_NnunetFile, channel_names={"0": "a"}, labels={"x": None}, file_ending=".nii")
    assert str(fault) == "labels.x: should be a whole number or a list (found nothing)"


def test_a_list_that_is_too_short_is_named_itself():
    """`key.2=...` could not be set on the command line."""
    fault = fault_of(EvaluationConfig, nsd_tolerance_mm=[1])
    assert fault.key == "nsd_tolerance_mm"
    training = {"max_minutes": 1, "patch_size": [8, 8]}
    fault = fault_of(RunConfig, name="a", data={"manifest": "m"}, training=training)
    assert (fault.key, fault.kind, fault.given) == ("training.patch_size", "wrong", "[8, 8]")


def test_keys_that_are_not_known_come_with_those_that_are():
    fault = fault_of(RunConfig, name="a", data={"manifest": "m"}, trainign={}, training={})
    assert (fault.kind, fault.last) == ("unknown", "trainign")
    assert fault.valid == tuple(RunConfig.model_fields)
    fault = fault_of(RunConfig, name="a", data={"manifest": "m"}, admission={"moode": "off"})
    assert fault.valid == tuple(AdmissionConfig.model_fields)


@pytest.mark.parametrize(
    ("value", "words", "kind"),
    [
        (None, "nothing", "nothing"),
        (True, "true", "true or false"),
        ([1, "a"], '[1, "a"]', "a list"),
        ("a", "'a'", "text"),
        (2.5, "2.5", "a number"),
        ({"a": 1}, '{"a": 1}', "keys and values"),
    ],
)
def test_values_are_written_as_in_a_file(value, words, kind):
    assert (in_words(value), kind_in_words(value)) == (words, kind)
    assert len(in_words([value] * 100)) == 60
