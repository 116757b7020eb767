"""`python -m pipeline` is the same command as `trivox`."""

import sys

from pipeline.cli import main

sys.exit(main())
