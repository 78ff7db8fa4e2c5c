"""Command line: python -m lumina_core generate|encode|decode|convert|info|bench."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
