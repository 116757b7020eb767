"""Trivox with shorter waits for archives, so that a loop of faults takes minutes and not hours.

python -m benchmarks.faults_child pacs ...
"""

import sys
from functools import partial

import pipeline.pacs.transport
from pipeline.cli.main import main
from pipeline.pacs import Patience

TRIES, FIRST_WAIT_S, MAX_WAIT_S = 3, 0.1, 1.0

if __name__ == "__main__":
    # The function of the same name hides the module.
    sys.modules["pipeline.pacs.run"].Patience = partial(  # type: ignore[attr-defined]
        Patience, TRIES, FIRST_WAIT_S
    )
    pipeline.pacs.transport.MAX_WAIT_S = MAX_WAIT_S
    sys.exit(main(sys.argv[1:]))
