"""The command line: parse the words, run the verb, report what went wrong.

Heavy imports happen inside the verbs, so that `--help` answers at once. Exit codes: 0 all done;
1 some study failed or was rejected (the rest is done), or work that had begun was broken off;
2 the user must change something before any study is looked at; 130 stopped by Ctrl-C or SIGTERM,
to be resumed.
"""

import errno
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.disk import FULL
from pipeline.errors import PipelineError
from pipeline.parsers import build_parser
from pipeline.verbs import INTERRUPTED, SOME_FAILED, WRONG_USAGE

OVERRIDE = re.compile(r"^[a-z_]+(\.[\w -]+)*=")
"""The parts after the first may be names of a data set's channels."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if arguments is None:
        _prepare_environment()
    words = sys.argv[1:] if arguments is None else list(arguments)
    # Settings may stand anywhere among the other words, which argparse alone does not allow.
    overrides = [word for word in words if OVERRIDE.match(word) and not _is_there(word)]
    options = build_parser().parse_args([word for word in words if word not in overrides])
    options.overrides = overrides
    set_up_logging(verbose=options.verbose)
    try:
        with _sigterm_like_ctrl_c():
            return int(options.verb(options))
    except PipelineError as error:
        return _report(str(error), error.exit_code)
    except OSError as error:
        logging.getLogger(__name__).debug("failed", exc_info=True)
        verb = next(word for word in words if word not in overrides)
        return _report(_explain(error, verb), _code_of(error))
    except KeyboardInterrupt:
        return _report("stopped; run the same command again to go on", INTERRUPTED)


def _explain(error: OSError, verb: str) -> str:
    """Say in one line what the system refused."""
    where = error.filename or f"trivox {verb}"
    found = error.strerror or str(error) or "the system refused to read or write"
    remedy = "Check the path, its permissions, the disk."
    if error.errno in FULL:
        again = " with --resume" if verb == "train" else ""
        remedy = f"Free space there, and run the same command again{again}."
    return f"{where}: {found}. {remedy}"


def set_up_logging(*, verbose: bool) -> None:
    """Log to standard error through the console that progress bars use; keep libraries quiet."""
    from rich.logging import RichHandler

    from pipeline.progress import CONSOLE

    handler: logging.Handler
    if CONSOLE.is_terminal:
        handler = RichHandler(console=CONSOLE, show_path=False, show_level=False)
        handler.setFormatter(logging.Formatter("%(message)s", "%X"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pipeline").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)


def _prepare_environment() -> None:
    """Set what the processes that this one starts, and libraries that are not loaded yet, go by.

    Nothing that lies in the current folder is imported: Python puts that folder first for `-c` and
    `-m`, which is how processes start each other, and would run a user's own `pipeline.py` there in
    place of ours. And threads that wait for each other wait a shorter while before they give their
    core away, since where others want it, that while is lost.
    """
    environment = os.environ  # noqa: TID251  # At the edge, before anything is started.
    environment["PYTHONSAFEPATH"] = "1"
    environment.setdefault("GOMP_SPINCOUNT", "1000")


def _is_there(word: str) -> bool:
    try:
        return Path(word).exists()
    except OSError:  # A long list of settings is longer than the name of a file may be.
        return False


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Schedulers end a job by SIGTERM; it should leave as little behind as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _code_of(error: OSError) -> int:
    """Tell what a path or its permissions are to blame for from what a disk is."""
    paths = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError,
             IsADirectoryError)  # fmt: skip
    named_badly = error.errno in (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
    return WRONG_USAGE if named_badly or isinstance(error, paths) else SOME_FAILED


def _report(text: str, code: int) -> int:
    print(f"trivox: {text}", file=sys.stderr)
    return code
