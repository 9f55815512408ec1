"""Every setting once. Precedence, lowest first: defaults, the run's own settings.toml, a profile, flags.

A flag that wasn't typed is None and changes nothing.
"""

from circuitcli.settings.resolve import PRESETS, Layers, explain, kept, nest, resolve, to_dict
from circuitcli.settings.table import APART, Setting, defaults, table
from circuitcli.settings.tree import Flag, Settings

__all__ = [
    "APART",
    "PRESETS",
    "Flag",
    "Layers",
    "Setting",
    "Settings",
    "defaults",
    "explain",
    "kept",
    "nest",
    "resolve",
    "table",
    "to_dict",
]
