"""Read what comes from outside: ordinary files only, and text whose size is bounded.

No file takes more time or memory than its size accounts for; what does not hold is one line that
names the file, what was found and what to do.
"""

from pipeline.outside.documents import (
    kind_in_words,
    parse_csv,
    parse_json,
    parse_yaml_value,
    read_csv,
    read_json,
    read_yaml,
)
from pipeline.outside.ordinary import check_ordinary, open_ordinary
from pipeline.outside.text import DEEPEST, cut, read_bytes, read_text, shown

__all__ = [
    "DEEPEST",
    "check_ordinary",
    "cut",
    "kind_in_words",
    "open_ordinary",
    "parse_csv",
    "parse_json",
    "parse_yaml_value",
    "read_bytes",
    "read_csv",
    "read_json",
    "read_text",
    "read_yaml",
    "shown",
]
