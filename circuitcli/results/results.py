"""Results."""

from circuitcli.results.reader import Reader


class Results(Reader):
    """Later."""
