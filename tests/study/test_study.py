from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.study import VOLUME_SUFFIXES, StudyConfig, case_name


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_case_name_drops_only_the_volume_suffix(suffix):
    assert case_name(Path("folder.x") / f"a.b{suffix}") == "a.b"


@pytest.mark.parametrize(("name", "case"), [("A.NII.GZ", "A"), ("a.dcm", "a"), ("plain", "plain")])
def test_case_name_of_odd_names(name, case):
    assert case_name(Path(name)) == case


@pytest.mark.parametrize("wrong", [{"non_finite": "ignore"}, {"max_voxels": 0}, {"typo": 1}])
def test_config_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValidationError):
        StudyConfig(**wrong)
