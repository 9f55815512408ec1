"""`python -m circuitcli` is `circuit`."""

from circuitcli.cli.app import main

if __name__ == "__main__":
    main()
