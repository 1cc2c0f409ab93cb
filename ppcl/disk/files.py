"""Files that appear whole or not at all, in UTF-8, on any file system."""

import errno
import functools
import io
import json
import os
import platform
import re
import sys
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from shutil import rmtree

HOST = re.sub(r"\W", "_", platform.node())  # each container has its own name
REFUSED = (errno.EINVAL, errno.ENODEV, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # by a file system


class DataError(RuntimeError):
    """Missing or wrong data: the folder or file and the remedy, in one line."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def given_path(text: Path | str) -> Path:
    """Return a path that a user gave; a leading `~` is the home folder."""
    return Path(os.path.expanduser(text))


def printable(text: str) -> str:
    """Return text as one line that any terminal and file accepts.

    Line breaks, control characters and bytes that are not UTF-8, all possible in file names, become escapes
    (`\\n`, `\\udcff`).
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@functools.cache
def warn_once(line: str) -> None:
    """Print a line on stderr, the first time only."""
    print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def replacing(path: Path | str):
    """Write a file under a temporary name beside `path`; it gets its own name once it is complete.

    The content is on the disk before the name, so neither a killed process nor a power failure leaves a partial file.
    Temporary files that killed processes left for this name are deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear(path.parent, path.name)
    temporary = temporary_name(path)
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems cannot flush a folder
        flush(path.parent)


def write_text(path: Path | str, text: str) -> None:
    """Write a small text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, remedy: str = "delete it", kind: type[Exception] = ValueError) -> dict:
    """The table in a JSON file; empty if there is none yet. Raises `kind` with the remedy if the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not isinstance(found, dict):
            raise ValueError("no table of facts")
    except ValueError as error:
        raise kind(f"{path} is damaged ({error}): {remedy}") from None
    return found


def as_json(value) -> str:
    """Return JSON text; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=1)


def temporary_name(path: Path) -> Path:
    """Return the hidden name under which this process writes `path`; no reader takes it for a picture or a table."""
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        if path.is_file():
            warn_once(f"{path.parent}: no file can be flushed here ({error.strerror}); a power failure may damage some")
    finally:
        os.close(number)


def clear(folder: Path, name: str | None = None) -> None:
    """Delete temporary files of dead processes on this host: those for one name, or all in a folder.

    Processes of other hosts cannot be checked, so their files stay.
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


class Output(io.FileIO):
    """Standard output or error whose reader may leave (`… | head -1`): the rest is discarded, the work goes on."""

    lost = False

    def write(self, data) -> int:
        """Write, or discard; a full disk is raised once."""
        try:
            return len(data) if self.lost else super().write(data)
        except OSError as error:
            self.lost = True
            if error.errno != errno.EPIPE:
                raise
            return len(data)


def prepare_streams() -> None:
    """Prepare the standard streams of a process that another one started: they may be closed, or plain ASCII."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by `>&-`; the file takes its free number
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))
            setattr(sys, f"__{name}__", getattr(sys, name))
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        raw = io.BufferedWriter(Output(old.fileno(), "w", closefd=False))
        how = {"line_buffering": old.line_buffering, "write_through": old.write_through}
        setattr(sys, name, io.TextIOWrapper(raw, encoding=old.encoding, errors="backslashreplace", **how))
