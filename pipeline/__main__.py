"""`python -P -m pipeline` is the same command as `trivox`."""

import sys

from pipeline.cli.main import main

# Worker processes import this module as well, and must not run the command again.
if __name__ == "__main__":
    sys.exit(main())
