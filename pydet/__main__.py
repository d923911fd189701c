"""`python -m pydet` is the command `pydet`."""

import sys


def run() -> int:
    """The exit code of the command; it can be interrupted while it is still being imported, too."""
    try:
        from pydet.cli import main

        return main()
    except KeyboardInterrupt:
        print("pydet: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
