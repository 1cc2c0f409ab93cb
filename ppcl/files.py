"""Files that appear whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path | str):
    """Write to a temporary name beside `path`; it appears under its own name whole, or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def printable(text: str) -> str:
    """Text in one line that any terminal and any file takes: line breaks, control characters and bytes that are no
    UTF-8, as file names may hold them, are written as escapes (`\\n`, `\\udcff`)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_text(path: Path | str, text: str) -> None:
    """A small text file, whole or absent."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
