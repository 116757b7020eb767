import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.planning import PlanConfig, parse_memory


@pytest.mark.parametrize(
    ("text", "gb"),
    [("8GB", 8), ("8", 8), ("512MB", 0.512), ("1.5 g", 1.5), ("2GiB", 2.147483648), ("1TB", 1000)],
)
def test_amounts_of_memory(text, gb):
    assert parse_memory(text) == pytest.approx(gb)


@pytest.mark.parametrize("text", ["", "much", "8 apples", "0GB", "-1GB"])
def test_what_is_no_amount_names_the_remedy(text):
    with pytest.raises(ConfigError, match=r"is no amount of memory\. Write it as 8GB"):
        parse_memory(text)


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_a_number_of_minutes(minutes, tmp_path):
    with pytest.raises(ValidationError, match="minutes"):
        PlanConfig(manifest=tmp_path, out=tmp_path, minutes=minutes)
