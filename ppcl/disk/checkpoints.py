"""Checkpoints: atomic save, safe load. safetensors only, so loading executes nothing.

A file holds the model's tensors under `model.`, while training also the optimiser's under `optimiser.<i>.`; everything
else (recipe, stage, epoch, fusion weights) is JSON in the file's own header, with a checksum of the tensors and one of
itself. What else a run folder needs, one process at a time and an orderly stop, is in guard.py.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import replacing

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or of another recipe: the file and the remedy, in one line."""


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU: names, kinds, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _seal(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def save(path: Path | str, model: torch.nn.Module, optimiser: torch.optim.Optimizer | None, **header) -> None:
    """Save a model, the optimiser while training goes on, and JSON-able facts about them.

    Raises CheckpointError where it cannot be written, FloatingPointError for numbers that are not finite; the file
    that was there stays.
    """
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if optimiser is not None:
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    tensors[f"optimiser.{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise FloatingPointError(
            f"{path}: {bad[0]} is not finite any more, which is not saved; a last good one is kept: lower the rate"
        )
    facts = {"format": FORMAT, **header, "tensors": _digest(tensors)}
    text = json.dumps(facts | {"checksum": _seal(facts)})  # one key: their order in the file is not kept
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"ppcl": text})
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path}: could not be written ({why}); the last good one is kept, free some room"
        ) from None


def header(path: Path | str) -> dict:
    """The facts in a checkpoint's header. Raises CheckpointError if the file is missing, damaged or not ours."""
    return _header(path)[0]


def _header(path: Path | str) -> tuple[dict, str | None]:
    """The facts in a file's header and its tensors' checksum, which files of features are written without."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; train that stage first")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path} may not be read: ask its owner to make it readable")
    try:
        with safe_open(path, "np") as file:  # which maps it as it is, of any size
            raw = file.metadata() or {}
        found = json.loads(raw.get("ppcl", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); delete it and train again"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise CheckpointError(f"{path} is not a ppcl checkpoint")
    if found["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {found['format']}, newer than {FORMAT}: update ppcl")
    seal = found.pop("checksum", None)
    if seal != _seal(found) if seal is not None else "tensors" in found:
        raise CheckpointError(f"{path} is damaged (its header is not what was saved); delete it and train again")
    return found, found.pop("tensors", None)


def sides(path: Path | str, prefix: str) -> list[int]:
    """The side lengths of a checkpoint's tensors whose names begin so; none of them is read."""
    with safe_open(path, "np") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys() if name.startswith(prefix)]
    return [side for shape in shapes if all(shape) for side in shape]  # without numbers there are no sides


def load(path: Path | str, model: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None) -> dict:
    """Load a checkpoint into a model (and the optimiser, where the file has its state); -> the header."""
    found, digest = _header(path)
    own = model.state_dict()
    tensors, states = {}, {}
    try:
        with safe_open(path, "pt") as file:
            whole = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it and train again") from None
    if digest is not None and digest != _digest(whole):
        raise CheckpointError(f"{path} is damaged (its tensors are not what was saved); delete it and train again")
    for key, value in whole.items():
        kind, _, name = key.partition(".")
        if kind == "model":
            tensors[name] = value
        elif kind == "optimiser" and optimiser is not None and name.partition(".")[0].isdecimal():
            index, _, slot = name.partition(".")
            states.setdefault(int(index), {})[slot] = value
    odd = [n for n, v in tensors.items() if n not in own or v.shape != own[n].shape]
    odd += [n for n in own if n not in tensors]
    if odd:
        raise CheckpointError(f"{path} does not fit this model ({odd[0]}): another recipe or ppcl made it; train again")
    model.load_state_dict(tensors)
    if optimiser is not None and states:
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": states, "param_groups": groups})
        for parameter, state in optimiser.state.items():  # a fused step wants its strides, channels_last or not
            for slot, value in state.items():
                if value.shape == parameter.shape:
                    state[slot] = torch.empty_strided(
                        value.shape, parameter.stride(), dtype=value.dtype, device=value.device
                    ).copy_(value)
    return found


def first_difference(mine: dict, theirs: dict, prefix: str = "") -> str | None:
    """The first dotted key in which two recipes differ, with both values; None if they agree."""
    for key in sorted(mine.keys() | theirs.keys()):
        a, b = mine.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found = first_difference(a, b, f"{prefix}{key}.")
            if found:
                return found
        elif json.dumps(a) != json.dumps(b):
            return f"{prefix}{key} is {json.dumps(b)} there, {json.dumps(a)} here"
    return None
