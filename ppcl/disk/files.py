"""Files that appear whole or not at all."""

import json
import math
import os
import platform
import re
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from shutil import rmtree

HOST = re.sub(r"\W", "_", platform.node())  # a container has a name of its own


class DataError(RuntimeError):
    """Data that are missing or wrong: the folder or file, and the remedy, in one line whatever its name is."""

    def __init__(self, message: str):
        super().__init__(printable(message))


@contextmanager
def replacing(path: Path | str):
    """Write to a temporary name beside `path`; it appears under its own name whole, or not at all.

    Its content is on the disk before its name is, so that neither a killed process nor a power failure leaves a part
    of it. What a killed process had begun to write under this name is cleared away.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear(path.parent, path.name)
    temporary = temporary_name(path)
    temporary.touch()
    mode = temporary.stat().st_mode  # as the user wants new files to be; some libraries make theirs private
    try:
        yield temporary
        temporary.chmod(mode)
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system can tell of folders
        flush(path.parent)


def printable(text: str) -> str:
    """Text in one line that any terminal and any file takes.

    Line breaks, control characters and bytes that are no UTF-8, as file names may hold them, are written as escapes
    (`\\n`, `\\udcff`).
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_text(path: Path | str, text: str) -> None:
    """A small text file, whole or absent."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def tensors_head(
    facts: dict[str, str], tensors: dict[str, tuple[str, Sequence[int], int]], aligned: int
) -> tuple[bytes, dict[str, int]]:
    """What stands before the tensors of a safetensors file that is written piece by piece; where each of them begins.

    tensors: of each its dtype by safetensors' name, its shape and the bytes of a number. The first begins at a multiple
    of `aligned` bytes.
    """
    entries, starts, end = {"__metadata__": facts}, {}, 0
    for name, (dtype, shape, size) in tensors.items():
        starts[name], end = end, end + math.prod(shape) * size
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [starts[name], end]}
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % aligned)
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + start for name, start in starts.items()}


def temporary_name(path: Path) -> Path:
    """Where this process writes what is to become `path`: hidden, so that nobody takes it for a picture or a table."""
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk; of a folder, the names in it."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def clear(folder: Path, name: str | None = None) -> None:
    """Delete what processes of this host that live no more had begun to write in a folder: a file of this name, or any.

    Of another host's nobody here can tell whether it lives.
    """
    for left in folder.glob(f".{'*' if name is None else escape(name)}.{HOST}-*.tmp"):
        number = left.name.rpartition("-")[2].removesuffix(".tmp")
        if number.isdecimal() and not _alive(int(number)):
            rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
