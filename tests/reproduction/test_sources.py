from dataclasses import replace

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.model import load_model
from pipeline.output import read_provenance
from pipeline.reproduction.sources import find_recorded_study, with_recorded_settings

CPU = torch.device("cpu")


@pytest.fixture
def model(made):
    return load_model(made.model, CPU)


def test_recorded_settings_replace_the_models(made, model):
    made.segment(inference={"overlap": 0.25}, study={"non_finite": "repair"})
    used = with_recorded_settings(model, read_provenance(made.provenance))
    assert used.description.inference.overlap == 0.25
    assert used.description.study.non_finite == "repair"
    assert used.description.labels == model.description.labels
    assert used.networks == model.networks


def test_another_model_is_named_by_its_hash(made, model):
    recorded = read_provenance(made.provenance)
    other = replace(model, sha256="b" * 64)
    with pytest.raises(ConfigError, match=rf"bbbbbbbbbbbb\.\.\., .* was {model.sha256[:12]}"):
        with_recorded_settings(other, recorded)


def test_the_study_keeps_its_recorded_name(made, model):
    moved = made.scan.rename(made.scan.with_name("DOE_JANE.nii.gz"))
    study = find_recorded_study([moved], read_provenance(made.provenance), model)
    assert (study.case, study.sources) == ("a", (moved,))


def test_what_was_looked_at_is_named(made, model, save_scan):
    for seed, name in enumerate("abcd", start=5):
        save_scan(made.scan.with_name(f"{name}.nii.gz"), seed)
    expected = r"looked at: a, b, c and others\. Name the files as they were then"
    with pytest.raises(ConfigError, match=expected):
        find_recorded_study([made.scan.parent], read_provenance(made.provenance), model)


def test_an_input_that_is_not_there_is_named(made, model):
    gone = made.scan.with_name("gone.nii.gz")
    with pytest.raises(ConfigError, match=r"gone\.nii\.gz: there is no such file"):
        find_recorded_study([gone], read_provenance(made.provenance), model)
