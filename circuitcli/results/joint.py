"""What ablating a run's whole circuit changes most of the next token, over the run's sample."""

from __future__ import annotations

from dataclasses import dataclass

from circuitcli.core.circuit import Context
from circuitcli.results import passages
from circuitcli.results.contexts import around
from circuitcli.results.reader import Reader
from circuitcli.store import validations


@dataclass(frozen=True)
class Changed:
    """A position, and the token whose probability changes most there.

    Attributes:
        context: The tokens around the position behind which the token would stand.
        token: The token.
        token_id: Its id.
        follows: Whether it is the one that really follows.
        base: Its probability by the model as it is.
        altered: The same without the circuit.
    """

    context: Context
    token: str
    token_id: int
    follows: bool
    base: float
    altered: float


def changed(reader: Reader) -> list[Changed]:
    """The largest changes first; none of a validation that has no circuit to ablate.

    Raises:
        InputError: The validate stage isn't done.
    """
    if validations.JOINT not in reader.run.require(validations.STAGE).files:
        return []
    table, view = reader.table(validations.JOINT), reader.settings.contexts.view
    texts = passages.read(reader, set(table["seq"].tolist()))
    return [
        Changed(
            context=around(texts[seq], seq, pos, view),
            token=token,
            token_id=token_id,
            follows=token_id == next_id,
            base=base,
            altered=altered,
        )
        for seq, pos, token, token_id, next_id, base, altered in zip(
            *(table[name].tolist() for name in ("seq", "pos", "token", "token_id", "next_id", "base", "altered")),
            strict=True,
        )
    ]
