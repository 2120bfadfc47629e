"""Files, folders and archives as single JSON documents, unparsed."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from schemas.errors import ConfigurationError

_JSON = (".json", ".json.gz")
_LINES = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz")
_ENDINGS = _JSON + _LINES + _ARCHIVES


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document as it stands in a file.

    size: bytes of disk space read for it since the document before it; compressed files are read in blocks.
    is_first: whether a file (in an archive: a member) begins with it.
    """

    value: bytes
    size: int
    is_first: bool


def fhir_files(paths: Iterable[Path]) -> list[Path]:
    """List the FHIR files that `paths` name, those in folders sorted; raise ConfigurationError where one has none."""
    return [file for path in paths for file in _files_of(path)]


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if _is_fhir(one.name) and one.is_file())
        if not found:
            raise ConfigurationError(f"The folder {path} holds no FHIR files ({', '.join(_ENDINGS)}).")
        return found
    if not path.exists():
        raise ConfigurationError(f"There is no file {path}.")
    if not _is_fhir(path.name):
        raise ConfigurationError(f"The file {path} has none of the endings of FHIR files: {', '.join(_ENDINGS)}.")
    return [path]


def _is_fhir(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and not name.startswith(".")


def read_documents(path: Path) -> Iterator[Document]:
    """Read a file's documents one by one; an archive's in the order of the archive."""
    with _naming(path), path.open("rb") as on_disk:
        consumed = 0
        for value, is_first in _values(path.name, on_disk):
            position = on_disk.tell()
            yield Document(value, position - consumed, is_first)
            consumed = position


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError) as error:
        raise ConfigurationError(f"The file {path} cannot be read: {error}.") from error


def _values(name: str, file: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    if name.lower().endswith(_ARCHIVES):
        yield from _members(file)
        return
    plain = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if name.lower().endswith(".gz") else file
    if name.lower().endswith(_JSON):
        yield plain.read(), True
        return
    is_first = True
    for line in plain:
        if value := line.strip():
            yield value, is_first
            is_first = False


def _members(file: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    # "r|*" streams: an xz archive cannot be read at random without unpacking it anew for each member.
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            name = Path(member.name).name
            content = archive.extractfile(member) if member.isfile() and _is_fhir(name) else None
            if content is not None:
                yield from _values(name, content)
