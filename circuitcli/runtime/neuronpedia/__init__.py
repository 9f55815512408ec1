"""Neuronpedia: what people and models say that features do, asked for slowly, and remembered.

Only https, or http on loopback, and the key from NEURONPEDIA_API_KEY to that one host: no redirect is followed. A few
requests at a time and a second, tried again where that may help, each capped in bytes and seconds. What is answered is
the text of strangers: it is checked, cut, and kept as data.

What is imported here asks nobody; `client.Neuronpedia` does.
Imports go down: client → {cache, rate_limit, service} → {answer, names}.
"""

from circuitcli.runtime.neuronpedia.answer import Explained, Weight
from circuitcli.runtime.neuronpedia.names import Address, address, address_of_page

__all__ = ["Address", "Explained", "Weight", "address", "address_of_page"]
