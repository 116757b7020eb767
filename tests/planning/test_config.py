import pytest
from pydantic import ValidationError

from pipeline.planning import PlanConfig


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_a_number_of_minutes(minutes, tmp_path):
    with pytest.raises(ValidationError, match="minutes"):
        PlanConfig(manifest=tmp_path, out=tmp_path, minutes=minutes)
