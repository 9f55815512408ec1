"""JSON: the whole circuit, to be read back or into other tools; `circuit.schema.json` beside this file describes it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from circuitcli.core.circuit import Circuit


@dataclass(frozen=True)
class Json:
    """Indented UTF-8, ending in a newline; a lone surrogate, which UTF-8 can't hold, is written as an escape."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        text = json.dumps(circuit.to_dict(), ensure_ascii=False, allow_nan=False, indent=2)
        return {"circuit.json": text.encode("utf-8", errors="backslashreplace") + b"\n"}


plugin = Json()
