"""Fingerprints of pictures: what a result depends on, by names and contents.

Contents are digested once. Digests are kept in one file and believed as long as a picture's inode, size, and times of
writing and of change stay the same. So a check of an unchanged set opens no picture, a copied or touched set is the
same set, and a picture that was replaced by one of the same name and size is another one.
"""

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..disk.files import given_path, replacing, warn_once
from ..jobs import in_threads

SETTLED = 2 * 10**9  # nanoseconds: file times are coarse, so the digest of a file that is younger is not kept
_EMPTY = np.empty((0, 6), np.uint64)
_kept: dict[Path, np.ndarray] = {}  # of this process, where no file can be written


def kept_below(data: Path | str) -> Path:
    """The file that keeps the digests of the pictures below a data folder."""
    return given_path(data) / "decoded" / "digests.npy"


def fingerprint(folder: Path, paths: Sequence[Path | str], kept: Path | None = None, *facts) -> str:
    """16 hexadecimal digits: names below a folder, wherever that lies, contents, and arrays or numbers beside them."""
    above, texts = f"{folder}/", [str(path) for path in paths]
    names = (text[len(above) :] if text.startswith(above) else os.path.basename(text) for text in texts)
    digest = hashlib.sha256(os.fsencode("\0".join(names)))
    digest.update(digests(texts, kept).tobytes())
    for fact in facts:
        digest.update(np.asarray(fact).tobytes() + b";")
    return digest.hexdigest()[:16]


def digests(paths: Sequence[Path | str], kept: Path | None = None) -> np.ndarray:
    """Digests of files' contents `(N, 2)`, uint64; 0 for those that cannot be read. New ones are added to `kept`."""
    began = time.time_ns()
    keys = np.array([_key(path) for path in paths], np.uint64).reshape(-1, 4)
    table = _load(kept) if kept else _EMPTY
    row = np.searchsorted(table[:, 0], keys[:, 0])
    row[row == len(table)] = 0
    known = (table[row, :4] == keys).all(1) if len(table) else np.zeros(len(keys), bool)
    found = np.zeros((len(keys), 2), np.uint64)
    found[known] = table[row[known], 4:]
    new = np.flatnonzero(~known & (keys[:, 0] > 0))
    read = in_threads(lambda i: _digest(paths[i]), new, "reading pictures", part=256)
    found[new] = np.fromiter(read, np.dtype((np.uint64, 2)), len(new))
    lasting = new[keys[new, 3] < began - SETTLED]
    if kept and len(lasting):
        added = np.concatenate([keys[lasting], found[lasting]], 1)
        table = np.concatenate([added, table])  # where an inode is there twice, the first counts
        _save(kept, table[np.unique(table[:, 0], return_index=True)[1]])
    return found


def _key(path: Path | str) -> tuple[int, int, int, int]:
    """Inode, size, time of writing and time of change; zeros for all but files: opening a pipe would wait."""
    try:
        of = os.stat(path)
    except OSError:
        return 0, 0, 0, 0
    if not stat.S_ISREG(of.st_mode):
        return 0, 0, 0, 0
    return of.st_ino, of.st_size, of.st_mtime_ns % 2**64, of.st_ctime_ns % 2**64


def _digest(path: Path | str) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            return np.frombuffer(hashlib.blake2b(file.read(), digest_size=16).digest(), np.uint64)
    except OSError:
        return np.zeros(2, np.uint64)


def _check(table: np.ndarray) -> np.ndarray:
    """A last row that a damaged file would not have."""
    return np.frombuffer(hashlib.blake2b(table.tobytes(), digest_size=48).digest(), np.uint64)


def _load(kept: Path) -> np.ndarray:
    """Kept rows `(N, 6)` by inode: `_key`, then the digest."""
    if kept in _kept:
        return _kept[kept]
    try:
        table = np.load(kept, allow_pickle=False)
        if table.dtype != np.uint64 or table.shape[1:] != (6,) or (table[-1] != _check(table[:-1])).any():
            raise ValueError
        return table[:-1]
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        warn_once(f"{kept}: not readable ({error.strerror or error}); pictures are read again")
    except Exception:  # NumPy raises almost anything on a damaged header
        warn_once(f"{kept} is damaged: pictures are read again")
    return _EMPTY


def _save(kept: Path, table: np.ndarray) -> None:
    try:
        with replacing(kept) as temporary, open(temporary, "wb") as file:
            np.save(file, np.concatenate([table, _check(table)[None]]))
    except OSError as error:
        _kept[kept] = table
        warn_once(f"{kept}: digests of pictures cannot be kept there ({error.strerror or error}); each run reads all")
