"""Writes tracr.json: what tracr (Lindner et al. 2023) compiles `previous token` to, and what that computes.

    pip install tracr-pypi==1.0.0        # brings jax and haiku: an environment of its own
    python tests/golden/compile_tracr.py

The file is kept, so that tests need none of it.
"""

import json
from pathlib import Path

import numpy as np
from tracr.compiler import compiling
from tracr.rasp import rasp

WORDS, LENGTH, BOS = ("a", "b", "c", "d"), 5, "bos"
PROMPTS = (("a", "b", "c"), ("a", "b", "c", "a"), ("d", "d", "b", "a", "c"), ("b",))


def plain(array: object) -> object:
    """Nested lists, whole numbers as such."""
    rows = np.asarray(array, np.float64)
    if rows.ndim > 1:
        return [plain(row) for row in rows]
    return [int(x) if float(x).is_integer() else float(x) for x in rows]


def main() -> None:
    """Compile, run, write."""
    before = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
    program = rasp.Aggregate(before, rasp.tokens).named("previous")
    model = compiling.compile_rasp_to_model(program, set(WORDS), LENGTH, causal=True, compiler_bos=BOS)
    found = {
        "labels": model.residual_labels,
        "vocabulary": model.input_encoder.encoding_map,
        "key_size": model.model_config.key_size,
        "layers": model.model_config.num_layers,
        "parameters": {
            module: {name: plain(array) for name, array in parts.items()} for module, parts in model.params.items()
        },
        "streams": [
            {"prompt": prompt, "last": plain(np.round(model.apply([BOS, *prompt]).transformer_output[0], 6))}
            for prompt in PROMPTS
        ],
    }
    Path(__file__).with_name("tracr.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
