"""The types of the public names, for checkers and editors."""

from circuitcli.api import Results as Results
from circuitcli.api import open_run as open_run
from circuitcli.api import run as run

__version__: str
