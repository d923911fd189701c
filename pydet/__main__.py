"""`python -m pydet` is the command `pydet`."""

import sys

from pydet.cli import main

sys.exit(main())
