"""One part in a process of its own, so that what ends or hangs there takes nothing else along.

What it measures goes to the process that started it, a line of JSON each; what it prints goes to
the part's log.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.gpu.figure import Context

DIE_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of Linux."""


def main() -> None:
    """Do the part that the command line describes in JSON."""
    order = json.loads(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    known = order["hippocampus"]
    context = Context(
        device=order["device"],
        tiny=order["tiny"],
        deadline=time.monotonic() + order["seconds"],
        work=Path(order["work"]),
        hippocampus=None if known is None else Path(known),
    )
    with os.fdopen(order["pipe"], "w", encoding="utf-8") as pipe:
        try:
            for found in importlib.import_module(order["module"]).measure(context):
                is_word = isinstance(found, str)
                send = {"doing": found} if is_word else {"figure": vars(found)}
                print(json.dumps(send), file=pipe, flush=True)
        except Exception as error:
            words = " ".join(str(error).split())
            print(json.dumps({"failed": f"{type(error).__name__}: {words}"}), file=pipe, flush=True)
            raise


if __name__ == "__main__":
    main()
