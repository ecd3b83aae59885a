"""``python -m fastmaml``: the same as the console script ``fastmaml``."""

import sys

from fastmaml.cli import main

if __name__ == "__main__":
    sys.exit(main())
