"""Features kept on the disk: a folder of `.npy` arrays, mapped when read, so a gallery may exceed the memory."""

import errno
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.lib.format import header_data_from_array_1_0, open_memmap, write_array_header_1_0

from ..data.image_bank import read_only
from ..disk.checkpoints import CheckpointError, first_difference
from ..disk.files import clear, flush, temporary_name, write_text
from .features import Features

FACTS = "facts.json"  # a folder without it is not valid
NAMES = [field.name for field in fields(Features)]


def save(folder: Path, batches: Iterable[Features], count: int, facts: dict, **more) -> None:
    """Write the features of `count` pictures as their batches come; the folder appears whole or not at all.

    `facts`: JSON-able, what the features depend on, to be given again to `load`; `more` is kept beside them. Raises
    OSError if they cannot be written, ValueError if the batches do not hold `count` pictures.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear(folder.parent, folder.name)
    temporary = temporary_name(folder)
    try:
        temporary.mkdir()
        shapes = _write(temporary, batches, count)
        write_text(temporary / FACTS, json.dumps({"facts": facts, "shapes": shapes, **more}))
        for path in (*temporary.iterdir(), temporary):
            flush(path)
        (folder / FACTS).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, batches: Iterable[Features], count: int) -> dict[str, list[int]]:
    done, shapes = 0, {}
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / f"{name}.npy", "wb")) for name in NAMES}
        for batch in batches:
            arrays = {name: value.cpu().contiguous().numpy() for name, value in vars(batch).items()}
            if not shapes:
                shapes = {name: [count, *array.shape[1:]] for name, array in arrays.items()}
                for name, array in arrays.items():
                    header = header_data_from_array_1_0(array) | {"shape": tuple(shapes[name])}
                    write_array_header_1_0(files[name], header)
                needed, free = count * sum(array[0].nbytes for array in arrays.values()), shutil.disk_usage(folder).free
                if needed > free:  # said before hours of describing, not after
                    raise OSError(errno.ENOSPC, f"{needed >> 20} MiB are needed, {free >> 20} are free")
            for name, array in arrays.items():
                files[name].write(array.data)
            done += len(batch)
    if done != count:
        raise ValueError(f"{folder}: features of {done} pictures, not of {count}")
    return shapes


def made_from(folder: Path, facts: dict) -> bool:
    """True if a folder says that it holds features made from `facts`, whatever the gallery was called then."""
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))["facts"] == facts
    except Exception:  # `load` says what is wrong
        return False


def load(folder: Path, facts: dict) -> tuple[Features, dict]:
    """Features made from `facts`, mapped, so that only what is used is read; and what was kept beside them.

    Raises CheckpointError if they are missing or damaged, or naming the first difference if they were made from
    something else.
    """
    if not (folder / FACTS).is_file():
        raise CheckpointError(f"{folder} does not exist: describe the pictures and save their features first")
    try:
        kept = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        difference = first_difference(facts, kept["facts"])
        arrays = {name: _mapped(folder / f"{name}.npy") for name in NAMES}
        for name, array in arrays.items():
            if array.dtype != np.float32 or list(array.shape) != kept["shapes"][name]:
                raise ValueError
    except Exception:  # NumPy raises almost anything on a damaged header
        raise CheckpointError(f"{folder} is damaged or of another version; delete it") from None
    if difference:
        raise CheckpointError(f"{folder} is stale ({difference}); describe the pictures again")
    return Features(**{name: read_only(array) for name, array in arrays.items()}), kept


def _mapped(path: Path) -> np.ndarray:
    try:
        return open_memmap(path, mode="r")  # refuses pickled objects
    except OSError:  # some file systems refuse memory maps
        return np.load(path, allow_pickle=False)
