"""A bank of decoded pictures on the disk: one safetensors file, written in blocks, opened by mapping it.

What is mapped costs no memory of its own: pages are read when a batch asks for them, and given up when others need the
room. The header names what the file was made of, so that a stale one is known and made again.
"""

import hashlib
import json
import math
import os
import shutil
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import replacing
from .folders import Cut

VERSION = 1  # of the file and of how pictures are decoded
ALIGNED = 4096  # bytes: where the pictures begin


def key(pictures: list, size: tuple[int, int]) -> str:
    """What a bank is made of: the pictures' names, sizes and times, how they are cut, and the size they are brought to.

    Pictures are files; the folder that they lie in may move.
    """
    digest = hashlib.sha256(repr((VERSION, size)).encode())
    for picture in pictures:
        cut = (picture.centre, picture.box) if isinstance(picture, Cut) else ()
        path = Path(picture.path if isinstance(picture, Cut) else picture)
        try:
            found = path.stat()
            facts = found.st_size, found.st_mtime_ns
        except OSError:  # decoding will name it
            facts = ()
        digest.update(repr((path.parent.name, path.name, facts, cut)).encode())
    return digest.hexdigest()


def has_room(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a bank can be kept at `path`, there already or to be written; says so in one line where it cannot."""
    folder = path.parent.parent
    needed = math.prod(shape) + 4 * shape[0]
    have = shutil.disk_usage(folder).free + (path.stat().st_size if path.is_file() else 0)
    where = path.parent if path.parent.is_dir() else folder
    problem = None if os.access(where, os.W_OK) or path.is_file() else "it may not be written to"
    problem = problem or (None if have > 1.05 * needed else f"{needed >> 20} MiB are needed, {have >> 20} are free")
    if problem:
        print(f"{where}: decoded pictures cannot be kept there ({problem}); they are decoded into memory", flush=True)
    return problem is None


def write(path: Path, key: str, shape: tuple[int, ...], blocks: Iterable[Tensor], ratios: Tensor) -> None:
    """Write a bank: uint8 blocks that make up `shape`, then the ratios, which may be filled in meanwhile."""
    pixels = math.prod(shape)
    tensors = {
        "images": {"dtype": "U8", "shape": shape, "data_offsets": [0, pixels]},
        "ratios": {"dtype": "F32", "shape": [shape[0]], "data_offsets": [pixels, pixels + 4 * shape[0]]},
    }
    header = json.dumps({"__metadata__": {"ppcl_bank": key}, **tensors}).encode()
    header = header.ljust(ALIGNED * (-(-(len(header) + 8) // ALIGNED)) - 8)
    path.parent.mkdir(exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a run that was killed
        if (process := left.name.split(".")[-2]).isdecimal() and not _alive(int(process)):
            left.unlink(missing_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for block in blocks:
            file.write(block.numpy())
        file.write(ratios.numpy())


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def opened(path: Path, key: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """The pictures, mapped and not to be written to, and the ratios; None where the file is not what is wanted.

    A file that is there but damaged is named in one line.
    """
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 1 << 20)))
        if header["__metadata__"]["ppcl_bank"] != key:
            return None
        start, end = 8 + length, header["ratios"]["data_offsets"][1]
        if header["images"]["shape"] != list(shape) or path.stat().st_size != start + end:
            raise ValueError
        pixels = np.memmap(path, np.uint8, "r", start, shape)
        ratios = torch.from_numpy(np.fromfile(path, np.float32, offset=start + pixels.size))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        print(f"{path} is damaged: its pictures are decoded again", flush=True)
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a tensor that may not be written to: nobody does
        return torch.from_numpy(pixels), ratios
