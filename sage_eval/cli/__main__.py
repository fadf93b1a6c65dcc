"""`python -m sage_eval.cli`, for where the command is not on the path."""

import sys

from sage_eval.cli import main

if __name__ == "__main__":
    sys.exit(main())
