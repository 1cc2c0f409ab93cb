"""A bank of decoded pictures on the disk: one safetensors file, written in blocks, opened by mapping it.

What is mapped costs no memory of its own: pages are read when a batch asks for them, and given up when others need the
room. The header names what the file was made of, so that a stale one is known and made again.
"""

import hashlib
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..disk.files import replacing, tensors_head
from .reading import Cut

VERSION = 1  # of the file and of how pictures are decoded
ALIGNED = 4096  # bytes: where the pictures begin
OURS = re.compile(rb'\{"__metadata__": \{"ppcl_bank": "([0-9a-f]{64})"\}')


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
    """Whether a bank can be written to `path`, beside what is there; says so in one line where it cannot."""
    folder = path.parent.parent
    needed = math.prod(shape) + 4 * shape[0]
    have = shutil.disk_usage(folder).free
    where = path.parent if path.parent.is_dir() else folder
    problem = None if os.access(where, os.W_OK) else "it may not be written to"
    problem = problem or (None if have > 1.05 * needed else f"{needed >> 20} MiB are needed, {have >> 20} are free")
    if problem:
        print(f"{where}: decoded pictures cannot be kept there ({problem}); they are decoded into memory", flush=True)
    return problem is None


def write(path: Path, key: str, shape: tuple[int, ...], blocks: Iterable[Tensor], ratios: Tensor) -> None:
    """Write a bank: uint8 blocks that make up `shape`, then the ratios, which may be filled in meanwhile."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(_head(key, shape))
        for block in blocks:
            file.write(block.numpy())
        file.write(ratios.numpy())


def _head(key: str, shape: tuple[int, ...]) -> bytes:
    """What stands before the pictures of a bank."""
    tensors = {"images": ("U8", shape, 1), "ratios": ("F32", shape[:1], 4)}
    return tensors_head({"ppcl_bank": key}, tensors, ALIGNED)[0]


def opened(path: Path, key: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """The pictures, mapped and not to be written to, and the ratios; None where the file is not what is wanted.

    A file that is there but damaged is named in one line. Nothing in its header is believed: it is the one that we
    would write, to the byte, or the file is not used.
    """
    if not path.is_file():
        return None
    head = _head(key, shape)
    try:
        with open(path, "rb") as file:
            found = file.read(len(head))
        if found != head and (other := OURS.match(found[8:])) and other[1] != key.encode():
            return None
        if found != head or path.stat().st_size != len(head) + math.prod(shape) + 4 * shape[0]:
            raise ValueError
        pixels = mapped(path)[len(head) : len(head) + math.prod(shape)].view(shape)
        ratios = torch.from_numpy(np.fromfile(path, np.float32, offset=len(head) + pixels.numel()))
    except (OSError, ValueError):
        print(f"{path} is damaged: its pictures are decoded again", flush=True)
        return None
    return pixels, ratios


def mapped(path: Path | str) -> Tensor:
    """A file's bytes `(size,)`, mapped and not to be written to: it may be larger than the memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a tensor that may not be written to: nobody does
        return torch.from_numpy(np.memmap(path, np.uint8, "r"))
