"""circuitcli: sparse feature circuits of language models, from the shell and from Python.

Public, and stable from version to version as docs/python.md says, are `run`, `open_run` and `Results`. They are
imported when they are first asked for, so that the command line starts at once; the stub beside this file types them.
"""

from importlib import import_module

__version__ = "0.2.0.dev0"
__all__ = ["Results", "open_run", "run"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("circuitcli.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
