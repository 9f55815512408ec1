"""`circuit`, and `python -m circuitcli`."""

import sys

from circuitcli.runtime import clock  # noqa: F401 it counts from here


def main() -> None:
    """Run the command line; Ctrl-C while that is still being imported is no traceback either."""
    try:
        from circuitcli.cli.app import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\nHint: The same command starts anew.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
