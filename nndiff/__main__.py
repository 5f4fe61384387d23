"""python -m nndiff: list the commands, or run one of them."""

import sys

from nndiff.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
