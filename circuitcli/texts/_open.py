"""Opening what texts are read from, a file or stdin, packed or not, and plain words for each way that fails."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TextIO, cast

from circuitcli.errors import InputError, no_room

# A .gz may unpack to this much, and stdin may hold it: neither says beforehand how large it is.
MAX_UNPACKED_BYTES = 4 << 30
_CHUNK = 1 << 20
_SAVE_IT = "Unpack or save it to a file and give that: plain files may have any size."
# What files that are no text begin with, and what to do about them.
_MAGIC = {
    b"\x1f\x8b": "It is gzip: let its name end in .gz, or unpack it.",
    b"PAR1": "It is parquet: let its name end in .parquet.",
    b"\xff\xfe": "It is UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`.",
    b"\xfe\xff": "It is UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`.",
    b"PK\x03\x04": "It is a zip archive: unpack it.",
    b"\x28\xb5\x2f\xfd": "It is packed with zstd: unpack it, or pack it with gzip.",
    b"\xfd7zXZ": "It is packed with xz: unpack it, or pack it with gzip.",
    b"BZh": "It is packed with bzip2: unpack it, or pack it with gzip.",
}


@dataclass(frozen=True)
class Origin:
    """A file of texts, or stdin.

    Attributes:
        name: What errors call it.
        suffix: The end of its name, in small letters and without .gz; none for stdin.
        packed: Whether it is gzip.
        raw: Opens its bytes.
    """

    name: str
    suffix: str
    packed: bool
    raw: Callable[[], IO[bytes]]

    def sha256(self) -> str:
        """Of its bytes as they lie there."""
        with text_errors(self), self.raw() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def unpacked(self) -> IO[bytes]:
        """Its bytes, unpacked as they are read, up to MAX_UNPACKED_BYTES."""
        raw = self.raw()
        if not self.packed:
            return raw
        unpacking = cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
        return io.BufferedReader(_Capped(unpacking, self.name, (unpacking, raw)), _CHUNK)

    def seekable(self) -> IO[bytes]:
        """Its bytes, unpacked to a temporary file without a name if they are packed."""
        return _spooled(self.unpacked()) if self.packed else self.raw()

    def text(self) -> TextIO:
        """Its text, with or without a byte order mark; \\r\\n is read as \\n."""
        return io.TextIOWrapper(self.unpacked(), encoding="utf-8-sig")


class _Capped(io.RawIOBase):
    """A stream that ends in an error where it should have ended."""

    def __init__(self, stream: IO[bytes], name: str, closes: tuple[IO[bytes], ...] = ()) -> None:
        self._stream, self._name, self._closes = stream, name, closes
        self._seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        self._seen += len(data)
        if self._seen > MAX_UNPACKED_BYTES:
            limit = f"{MAX_UNPACKED_BYTES / (1 << 30):.3g} GiB"
            raise InputError(f"{self._name} holds more than {limit}, unpacked.", hint=_SAVE_IT)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        for stream in self._closes:
            stream.close()
        super().close()


def find(value: str) -> Origin:
    """The file of that name, or stdin for `-`.

    Raises:
        InputError: There is no such file, or nothing to read in it.
    """
    if value == "-":
        return _stdin()
    path = Path(os.path.expanduser(value))
    name = f"The text file {path}"
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{name} can't be read: {error.strerror}.", hint="Check its path.") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name} can't be read: it is a folder.", hint="Give a folder with --dataset.")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} can't be read: it is no ordinary file.", hint="Read a pipe with --text -.")
    if not status.st_size:
        raise InputError(f"{name} is empty.", hint="Give a file with text in it.")
    packed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    return Origin(name, suffix, packed, lambda: path.open("rb"))


def _stdin() -> Origin:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(
            "There is no text on stdin: it is a terminal.", hint="Pipe text in: `… | circuit run-all --text -`."
        )
    spool = _spooled_stdin(sys.stdin.buffer)

    def again() -> IO[bytes]:
        spool.seek(0)
        return os.fdopen(os.dup(spool.fileno()), "rb")

    return Origin("The text on stdin", "", False, again)


@lru_cache(maxsize=1)
def _spooled_stdin(stream: IO[bytes]) -> IO[bytes]:
    """What came on stdin, which can be read once only, in a temporary file."""
    spool = _spooled(_Capped(stream, "The text on stdin"))  # type: ignore[arg-type]
    if not spool.seek(0, io.SEEK_END):
        raise InputError("The text on stdin is empty.", hint="Pipe text in: `… | circuit run-all --text -`.")
    return spool


def _spooled(source: IO[bytes]) -> IO[bytes]:
    """The same bytes in a temporary file without a name, which is gone when it is closed."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        with source:
            shutil.copyfileobj(source, file, _CHUNK)
        file.seek(0)
        stack.pop_all()
    return file


@contextmanager
def text_errors(origin: Origin) -> Iterator[None]:
    """Errors of reading in this tool's words; a full disk stays what it is."""
    try:
        yield
    except UnicodeDecodeError:
        raise InputError(f"{origin.name} is not UTF-8.", hint=_what_it_is(origin)) from None
    except EOFError:
        raise InputError(f"{origin.name} is damaged: it ends too early.", hint="Get or pack it again.") from None
    except (gzip.BadGzipFile, zlib.error):
        raise InputError(f"{origin.name} is no gzip, or damaged.", hint="Get it again, or rename it.") from None
    except OSError as error:
        if no_room(error):
            raise
        if error.errno is None:
            raise InputError(f"{origin.name} is damaged: {error}.", hint="Get or write it again.") from None
        raise InputError(f"{origin.name} can't be read: {error.strerror}.", hint="Check its path and disk.") from None


def check_text(origin: Origin) -> None:
    """Read it to its end.

    Raises:
        InputError: It isn't text in UTF-8, or is damaged.
    """
    with text_errors(origin), origin.text() as file:
        for piece in iter(lambda: file.read(_CHUNK), ""):
            if "\0" in piece:
                raise InputError(f"{origin.name} is not text: it holds NUL bytes.", hint=_what_it_is(origin))


def _what_it_is(origin: Origin) -> str:
    with origin.unpacked() as file:
        head = file.read(8)
    found = (hint for magic, hint in _MAGIC.items() if head.startswith(magic) and origin.suffix != ".parquet")
    return next(found, "Convert it to UTF-8, e.g. with iconv.")
