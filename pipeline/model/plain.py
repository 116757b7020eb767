"""Text of others in a MONAI Bundle, where text can be code.

MONAI runs what begins with `$`, replaces what begins with `@` or `%` by something else, and makes
an object of what has the key `_target_`. So a name that it would not leave as it is becomes an
expression of ours, a string literal, which gives the name; and a mapping with such names for keys
becomes a list of pairs.

Source:
    https://docs.monai.io/en/stable/config_syntax.html.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_VALUE = re.compile(r"[$@%]|.*(#|[@%]::)", re.DOTALL)
_KEY = re.compile(r"[$@%+~]|_.*_$|.*(#|::)", re.DOTALL)
_RUN = re.compile(r"[$@%]|_.*_$", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9 _.,;/()=-]")


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return JSON content that MONAI resolves to what it says, and that runs nothing of it."""
    match value:
        case str():
            return _literal(value) if _VALUE.match(value) else value
        case Mapping():
            if any(_KEY.match(str(key)) for key in value):
                return [[plain(key), plain(each)] for key, each in value.items()]
            return {key: plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
    return value


def first_run(content: Any, where: str = "") -> str | None:  # noqa: ANN401
    """Return where the first text stands that MONAI would take for something else; None if nowhere.

    Text that it would only spell otherwise is passed over.
    """
    return next(_places(content, where), None)


def _places(content: Any, where: str) -> Iterator[str]:  # noqa: ANN401
    match content:
        case str():
            if content.startswith(("$", "@", "%")):
                yield where
        case Mapping():
            for key, each in content.items():
                place = f"{where}.{key}" if where else str(key)
                if _RUN.match(str(key)):
                    yield place
                yield from _places(each, place)
        case list() | tuple():
            for index, each in enumerate(content):
                yield from _places(each, f"{where}[{index}]")


def _literal(text: str) -> str:
    """Return an expression that is a string, without any character that means something."""
    spelled = (char if _PLAIN.match(char) else _escape(ord(char)) for char in text)
    return f"$'{''.join(spelled)}'"


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\U{code:08x}"
