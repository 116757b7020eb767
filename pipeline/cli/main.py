"""The command line: parse the words, run the verb, report what went wrong.

Heavy imports happen inside the verbs, so that `--help` answers at once, and no signal finds a
process that cannot answer it yet. Exit codes: 0 all done; 1 some study failed or was rejected (the
rest is done), or work that had begun was broken off; 2 the user must change something before any
study is looked at; 130 stopped by Ctrl-C, SIGTERM or SIGHUP, to be resumed.
"""

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.errors import PipelineError
from pipeline.system.disk import explain
from pipeline.system.spelling import LogFormatter, show_safely, spelled

SOME_FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        with _signals_like_ctrl_c(is_command=arguments is None):
            return _run(arguments)
    except KeyboardInterrupt:
        return _report("stopped; run the same command again to go on", INTERRUPTED)


def _run(arguments: Sequence[str] | None) -> int:
    verb = ""
    try:
        if arguments is None:
            _prepare()
        from pipeline.cli.parser import parse

        options = parse(sys.argv[1:] if arguments is None else arguments)
        verb = options.verb_name
        set_up_logging(verbose=options.verbose)
        return int(options.verb(options))
    except PipelineError as error:
        return _report(str(error), error.exit_code)
    except OSError as error:
        logging.getLogger(__name__).debug("failed", exc_info=True)
        return _report(_explain(error, verb), _code_of(error))


def _prepare() -> None:
    show_safely()
    from pipeline.system.optional import leave_optional_out
    from pipeline.system.surroundings import prepare, speak_utf8

    leave_optional_out()

    environment = os.environ  # noqa: TID251  # At the edge, before anything is started.
    speak_utf8(environment)
    prepare(environment)


def _explain(error: OSError, verb: str) -> str:
    """Say in one line what the system refused, and what helps."""
    found = explain(error)
    where = found.where or f"trivox {verb}"
    again = " with --resume" * (verb == "train" and found.is_full)
    remedy = f"{found.remedy.rstrip('.')}, and run the same command again{again}."
    return f"{where}: {found.what}. {remedy if found.is_full else found.remedy}"


def set_up_logging(*, verbose: bool) -> None:
    """Log to standard error through the console that progress bars use; keep libraries quiet."""
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    from pipeline.system.progress import CONSOLE

    handler: logging.Handler
    if CONSOLE.is_terminal:
        handler = RichHandler(
            console=CONSOLE,
            show_path=False,
            show_level=False,
            highlighter=NullHighlighter(),
            keywords=[],
        )
        handler.setFormatter(LogFormatter("%(message)s", "%X"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pipeline").setLevel(logging.DEBUG if verbose else logging.INFO)
    # matplotlib says so each time that it keeps fonts in a new folder.
    for name in ("ignite", "matplotlib.font_manager"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _signals_like_ctrl_c(*, is_command: bool) -> Iterator[None]:
    """Schedulers end a job by SIGTERM, terminals by SIGHUP: they leave as little as Ctrl-C does.

    Args:
        is_command: Whether the process ends with the block: told once more, it then does at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {}
    for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
        # What was told to outlive its terminal (`nohup`) does.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if is_command:
            for number in (signal.SIGINT, *previous):
                signal.signal(number, lambda *_: os._exit(INTERRUPTED))
            previous.clear()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _code_of(error: OSError) -> int:
    """Tell what a path or its permissions are to blame for from what a disk is."""
    paths = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError,
             IsADirectoryError)  # fmt: skip
    named_badly = error.errno in (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
    return WRONG_USAGE if named_badly or isinstance(error, paths) else SOME_FAILED


def _report(text: str, code: int) -> int:
    print(f"trivox: {spelled(text)}", file=sys.stderr)
    return code
