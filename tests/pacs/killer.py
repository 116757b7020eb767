"""Run a round trip in children that are killed at random moments, until one ends by itself.

Run as `python -m tests.pacs.killer SEED OUT ADDRESS PATIENT_ID`; prints the number of kills.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from pipeline.pacs import (
    Credentials,
    Patience,
    RoundTrip,
    connect,
    parse_address,
    parse_query,
    run_round_trip,
)
from tests.pacs.orthanc import PASSWORD, USER
from tests.pacs.studies import ThresholdSegmenter

MAX_KILLS = 60


def child(out, address, patient):
    credentials = Credentials(USER, PASSWORD) if address.startswith("http") else None

    def open_archive():
        where = parse_address(address, "--archive")
        return connect(where, credentials=credentials, patience=Patience(2, 0.05))

    query = parse_query([f"PatientID={patient}"], take_all=False)
    trip = RoundTrip(open_archive(), open_archive(), query, None, out, "recipe")
    summary = run_round_trip(trip, ThresholdSegmenter(out))
    os._exit(0 if summary.all_done else 1)


def main(seed, out, address, patient):
    rng = random.Random(int(seed))
    num_kills = 0
    while True:
        # Longer and longer, so that it comes to an end on a slow machine too.
        wait_s = rng.uniform(0.02, 0.25) * (1 + num_kills / 5)
        process = os.fork()
        if process == 0:
            try:
                child(Path(out), address, patient)
            finally:
                os._exit(3)
        end = time.monotonic() + wait_s
        finished, status = 0, 0
        while not finished and (time.monotonic() < end or num_kills >= MAX_KILLS):
            time.sleep(0.002)
            finished, status = os.waitpid(process, os.WNOHANG)
        if finished:
            sys.stdout.write(str(num_kills))
            return os.waitstatus_to_exitcode(status)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        num_kills += 1


if __name__ == "__main__":
    # What a child would import is imported before, or it would never come further.
    import pipeline.cohort  # noqa: F401

    sys.exit(main(*sys.argv[1:]))
