"""Models whose circuits are known: transformers whose weights are written down, with one-hot dictionaries.

Each file states a program, the weights that compute it, a prompt, and the circuit that answers it, which follows from
the program. `program` has what weights are made of, `files` writes them as the files of a model and its dictionaries,
and `answer` is what a circuit is written as. `circuit bench --truth` asks the tool for these circuits.
"""

from circuitcli.known import cancelling, copying, induction, reversing, share
from circuitcli.known.answer import Known

__all__ = ["KNOWN", "Known"]

KNOWN: tuple[Known, ...] = (copying.KNOWN, induction.KNOWN, share.KNOWN, reversing.KNOWN, cancelling.KNOWN)
"""All of them."""
