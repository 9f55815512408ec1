"""Names on Neuronpedia: of models, and the addresses of features."""

from __future__ import annotations

from urllib.parse import quote

HOME = "https://www.neuronpedia.org"
# What Neuronpedia calls otherwise than their repositories.
_MODELS = {"gpt2": "gpt2-small", "llama-3.1-8b": "llama3.1-8b", "llama-3.1-8b-instruct": "llama3.1-8b-it"}


def model_id(model: str) -> str:
    """A model as Neuronpedia names it: its repository without the owner, gpt2 as gpt2-small."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    return _MODELS.get(name, name)


def page(model: str, source: str, index: int) -> str:
    """The address of a feature's page. A source may name its model too: `gpt2-small/4-res-jb`."""
    of, _, name = source.rpartition("/")
    return f"{HOME}/{quote(of or model_id(model))}/{quote(name)}/{index}"
