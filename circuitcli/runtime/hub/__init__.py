"""The Hugging Face Hub: what a repository holds, and its files in the cache that all its tools share.

One request tells every file's size and the hash of its content: sha256 of a large file (LFS), git's sha1 of a small
one. The hash is also the file's name among the blobs of the cache. A download is written to a partial file of that
name, so that a later try goes on where this one stopped; only what has the hub's size and hash becomes a blob.
huggingface_hub itself starts anew each time since 2.0. Addresses, tokens, locks, the cache's layout and the errors are
its own.

Imports go down: client → download → {cache, retry} → errors.
"""

from huggingface_hub.errors import StrictDataclassError as Malformed

from circuitcli.runtime.hub.client import Hub
from circuitcli.runtime.hub.errors import explain

__all__ = ["Hub", "Malformed", "explain"]
