from typing import get_args

import pytest
from pydantic import ValidationError

from pipeline.config import build_config
from pipeline.gate import AdmissionConfig
from pipeline.study.findings import CheckName


def test_every_check_is_a_setting_that_is_on():
    for name in get_args(CheckName):
        assert getattr(AdmissionConfig(), name) == "auto"


@pytest.mark.parametrize(
    "wrong", [{"flips": "off"}, {"flip": "maybe"}, {"slack": -1}, {"spacing_warn_factor": 0.5}]
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        AdmissionConfig(**wrong)


@pytest.mark.parametrize("name", ["mode", "texture"])
def test_off_needs_no_quotes_on_the_command_line(name):
    settings = build_config(AdmissionConfig, {}, [f"{name}=off"], where="here")
    assert getattr(settings, name) == "off"


def test_every_setting_is_described():
    assert all(field.description for field in AdmissionConfig.model_fields.values())
