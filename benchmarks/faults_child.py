"""Trivox with shorter waits for archives, so that a loop of faults takes minutes and not hours.

python -m benchmarks.faults_child pacs ...
"""

import sys
from functools import partial

import pipeline.archive.retry
from pipeline.archive import Patience
from pipeline.cli import main

TRIES, FIRST_WAIT_S, MAX_WAIT_S = 3, 0.1, 1.0

if __name__ == "__main__":
    # The function of the same name hides the module.
    sys.modules["pipeline.archive.connect"].Patience = partial(  # type: ignore[attr-defined]
        Patience, TRIES, FIRST_WAIT_S
    )
    pipeline.archive.retry.MAX_WAIT_S = MAX_WAIT_S
    sys.exit(main(sys.argv[1:]))
