"""Features on the disk: written part by part and mapped when read, so a gallery may be larger than the memory.

A file is safetensors, so loading executes nothing. Its header tells what the features were made from; where that is
something else than asked for, the file is refused.
"""

import errno
import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..data.bank_files import mapped
from ..disk.checkpoints import CheckpointError, first_difference, header
from ..disk.files import replacing, tensors_head
from .features import Features

FORMAT = 1
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}  # safetensors' names
KINDS = {name: dtype for dtype, name in DTYPES.items()}
NAMES = [field.name for field in fields(Features)]
SHAPES = {  # as the docstring of Features gives them; a letter is the same number wherever it stands
    "embedding": "NMC", "box": "NM4", "gate": "N", "points": "NMKD", "stripes": "NMSC",
    "keys": "NDhw", "whitened": "NChw", "visible": "N1hw", "gram": "Ngg",
}  # fmt: skip


def save(path: Path | str, parts: Iterable[Features], count: int, facts: dict, **more) -> None:
    """Write `count` pictures' features as they come, in parts of any length; the file appears whole or not at all.

    `facts`: what they were made from, JSON-able, to be given again to `load`; `more` is kept beside them.
    Raises OSError where it cannot be written, ValueError if the parts are not of `count` pictures.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        done, starts = 0, {}
        for part in parts:
            if not starts:
                _ask_for_room(Path(path).parent, count * sum(getattr(part, name)[0].nbytes for name in NAMES))
                starts = _begin(file, part, count, {"format": FORMAT, "facts": facts, **more})
            for name, start in starts.items():
                value = getattr(part, name).cpu().contiguous()
                file.seek(start + done * value[0].nbytes)
                file.write(value.view(torch.uint8).numpy().data)
            done += len(part)
        if done != count:
            raise ValueError(f"{path}: features of {done} pictures, not of {count}")


def _ask_for_room(folder: Path, needed: int) -> None:
    """Before hours of describing, not after."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed >> 20} MiB are needed, {free >> 20} are free")


def _begin(file, part: Features, count: int, facts: dict) -> dict[str, int]:
    """Write the header of features like `part`, but of `count` pictures. -> where each of its tensors begins."""
    values = {name: getattr(part, name) for name in NAMES}
    tensors = {name: (DTYPES[v.dtype], [count, *v.shape[1:]], v.itemsize) for name, v in values.items()}
    head, starts = tensors_head({"ppcl": json.dumps(facts)}, tensors, 64)
    file.write(head)
    return starts


def load(path: Path | str, facts: dict) -> tuple[Features, dict]:
    """Features made from `facts`, with the file's header. They are mapped: only what is used is ever read.

    Raises CheckpointError that names the first difference where they were made from something else, and if the file is
    missing, damaged or of another kind.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path} does not exist: describe the pictures and save their features first")
    try:
        found = header(path)
        features = Features(**_mapped(path))
        if not isinstance(found.get("facts"), dict) or not _fit(features):
            raise CheckpointError
    except (CheckpointError, SafetensorError, OSError, KeyError, RuntimeError, TypeError):
        raise CheckpointError(f"{path} is damaged or holds no features that this version reads; delete it") from None
    if difference := first_difference(facts, found["facts"]):
        raise CheckpointError(f"{path} is stale ({difference}); describe the pictures again")
    return features, found


def _mapped(path: Path | str) -> dict[str, Tensor]:
    """A file's tensors, mapped and not to be written to.

    safetensors' own are mapped as if they might be written to, which Linux refuses of more than its whole memory.
    """
    with safe_open(path, "np") as file:  # this compares the header with the file
        entries = {name: file.get_slice(name) for name in file.offset_keys()}
        kinds = {name: (entry.get_dtype(), entry.get_shape()) for name, entry in entries.items()}
    content = mapped(path)
    end = 8 + int.from_bytes(content[:8].numpy().tobytes(), "little")
    tensors = {}
    for name, (kind, shape) in kinds.items():
        start, end = end, end + math.prod(shape) * KINDS[kind].itemsize
        tensors[name] = content[start:end].view(KINDS[kind]).view(shape)
    return tensors


def _fit(features: Features) -> bool:
    """Whether all of a file's tensors are of kinds that we write, and of shapes that agree with each other."""
    known = {"1": 1, "4": 4}
    for name, letters in SHAPES.items():
        value = getattr(features, name)
        if value.dtype not in DTYPES or value.dim() != len(letters):
            return False
        if any(known.setdefault(letter, side) != side for letter, side in zip(letters, value.shape, strict=True)):
            return False
    return known["g"] in (0, known["h"] * known["w"]) and features.gram.dtype == torch.float32
