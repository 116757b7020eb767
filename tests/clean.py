"""Look through every byte of files that are given to others for what names this machine."""

import getpass
import gzip
import io
import sys
import sysconfig
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pipeline


def names_of_this_machine(*more: Path) -> set[str]:
    """Return the folders, and the user's name as part of a path, that nobody else needs to know."""
    folders = {
        Path.cwd(),
        Path.home(),
        Path(sys.prefix),
        Path(sysconfig.get_path("purelib")),
        Path(pipeline.__file__).parent.parent,
        Path(tempfile.gettempdir()),
        *more,
    }
    folders |= {folder.resolve() for folder in folders}
    return {f"{folder}/" for folder in folders if folder != Path("/")} | {
        f"/{getpass.getuser()}/",
        "site-packages",
        "dist-packages",
    }


def contents(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a file and, if it is an archive or compressed, all that is in it."""
    yield name, data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from contents(f"{name}!{member}", archive.read(member))
    elif data[:2] == b"\x1f\x8b":
        yield f"{name}!", gzip.decompress(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        # Text chunks may be compressed.
        for place in (n for n in range(len(data)) if data.startswith((b"zTXt", b"iTXt"), n)):
            start = data.find(b"\x78", place)
            yield f"{name}!text", zlib.decompressobj().decompress(data[start:])


def found_in(folder: Path, *more: Path, but: str = "") -> list[str]:
    """Return, file by file, which names of this machine lie below a folder.

    Args:
        folder: What others get.
        more: Folders that nobody else needs to know.
        but: Name of a folder in it that others do not get.
    """
    needles = [
        (text, text.encode(encoding))
        for text in sorted(names_of_this_machine(folder, *more))
        for encoding in ("utf-8", "utf-16-le", "utf-16-be")
    ]
    paths = sorted(folder.rglob("*"))
    files = [path for path in paths if path.is_file() and but not in path.relative_to(folder).parts]
    return [
        f"{name}: {text}"
        for path in files
        for name, data in contents(str(path.relative_to(folder)), path.read_bytes())
        for text, needle in needles
        if needle in data
    ]
