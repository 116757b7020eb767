import pytest

from pipeline.errors import ConfigError
from pipeline.planning import parse_memory


@pytest.mark.parametrize(
    ("text", "gb"), [("8GB", 8), ("8", 8), ("512MB", 0.512), ("1.5 g", 1.5), ("2GiB", 2.147483648)]
)
def test_amounts_of_memory(text, gb):
    assert parse_memory(text) == pytest.approx(gb)


@pytest.mark.parametrize("text", ["", "much", "8 apples", "0GB", "-1GB"])
def test_what_is_no_amount_names_the_remedy(text):
    with pytest.raises(ConfigError, match=r"is no amount of memory\. Write it as 8GB"):
        parse_memory(text)
