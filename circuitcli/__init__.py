"""circuitcli: sparse feature circuits of language models, from the shell."""

__version__ = "0.2.0.dev0"
