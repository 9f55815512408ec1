"""Models whose files can't be read: how other libraries say so, and how this one does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from circuitcli.errors import InputError
from circuitcli.runtime.foreign import why

# What libraries raise at files that are damaged, or hold what they shouldn't.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    RuntimeError,
    EOFError,
    SafetensorError,
)


def unfit(name: str, error: Exception | str) -> InputError:
    """A model whose files are there and can't be loaded, and why."""
    reason = error if isinstance(error, str) else why(error)
    return InputError(
        f"The model {name} can't be loaded: {reason.rstrip(' .:')}.",
        hint="It needs a config.json, its weights as safetensors, and a tokenizer.json.",
    )


@contextmanager
def model_errors(name: str) -> Iterator[None]:
    """Around another library's work on a model's files, and nothing else.

    Raises:
        InputError: It can't read them.
    """
    try:
        yield
    except Exception as error:
        # tokenizers has no class of its own for its errors.
        from circuitcli.runtime.hub import Malformed  # only now: what it imports takes time, and so does torch

        if not isinstance(error, (*_BROKEN, Malformed)) and type(error) is not Exception:
            raise
        from circuitcli.runtime.device import out_of_memory

        if out_of_memory(error):
            raise
        raise unfit(name, error) from None
