"""The embedded demo: a small language model, its dictionaries and held-out text, all shipped inside the package.

Only paths live here, so that importing this module costs nothing. `README.md` says what the files are and what was
measured on them; `python -m circuitcli.demo.train` makes them anew.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
"""Holds all of it."""

MODEL = FOLDER / "model"
"""A transformers checkpoint (GPT2LMHeadModel, float16) with its tokenizer."""

SAES = FOLDER / "saes"
"""SAELens folders, one an autoencoder: `blocks.{layer}.hook_{site}`."""

TRANSCODERS = FOLDER / "transcoders"
"""A transcoder a layer, in circuit-tracer's format."""

CLT = FOLDER / "clt"
"""A cross-layer transcoder, likewise."""

TEXT = FOLDER / "text.jsonl"
"""Held-out passages, one JSON object a line: `text`, `source`."""
