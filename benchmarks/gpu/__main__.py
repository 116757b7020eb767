"""Prove and measure Trivox on a GPU, in at most nine minutes.

    python -m benchmarks.gpu [--part PART ...] [--minutes 9] [--device cuda]

Each figure is printed and written to benchmarks/gpu.json as soon as it is there, and the page
benchmarks/gpu.md is made of that. Figures of a CPU, or of tiny data, go to build/gpu/, or to --out.
Exit code 1 if a part failed or a proof did not hold, 2 if there is no such device, 130 if stopped.
"""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.gpu.page import default_folder, is_right, write_page
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.record import Record
from benchmarks.gpu.run import Order, run_parts
from benchmarks.gpu.where import PLACES, ROOT


def main() -> None:
    """Do what the command line asks for."""
    options = _parse()
    out = options.out or default_folder(ROOT, options.device, tiny=options.tiny)
    if options.page:
        write_page(Record(out))
        return
    run = {**_where(options.device), "tiny": options.tiny}
    order = Order(
        parts=[name for name in PARTS if name in options.part],
        device=options.device,
        tiny=options.tiny,
        seconds=60 * options.minutes,
        hippocampus=options.data or next((place for place in PLACES if place.is_dir()), None),
    )
    record = Record(out, run)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    try:
        run_parts(order, record)
    except KeyboardInterrupt:
        print(f"Stopped; what was measured is in {record.path}", file=sys.stderr)
        sys.exit(130)
    print(f"{record.path}\n{record.path.with_suffix('.md')}")
    sys.exit(0 if is_right(record, order.parts) else 1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--tiny", action="store_true", help="seconds a part, also on a CPU")
    parser.add_argument("--data", type=Path, help="folder of the hippocampus data (Decathlon)")
    parser.add_argument("--out", type=Path, help="folder of the figures and the page")
    parser.add_argument("--page", action="store_true", help="only make the page of the figures")
    options = parser.parse_args()
    if options.out is None or options.out.resolve() != (ROOT / "benchmarks").resolve():
        return options
    if not options.page and (options.tiny or not options.device.startswith("cuda")):
        parser.error("benchmarks/ is for figures of a GPU that are not tiny; choose another --out")
    return options


def _where(device: str) -> dict[str, Any]:
    """Ask what the device is; in another process, so that this one holds nothing on it."""
    words = [sys.executable, "-m", "benchmarks.gpu.where", device]
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode:
        print(answer.stderr.strip().splitlines()[-1], file=sys.stderr)
        sys.exit(2)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def _stop(number: int, frame: object) -> NoReturn:
    """End like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
