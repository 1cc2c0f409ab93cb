"""Checkpoints in safetensors files, saved whole or not at all; loading them executes nothing.

A file holds the model's tensors under `model.` and, during training, the optimiser's under `optimiser.<i>.`. Everything
else (recipe, stage, epoch, fusion weights) is JSON in the file's header, with one checksum of the tensors and one of
the JSON.
"""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .files import replacing

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another recipe: the file and the remedy, in one line."""


def _digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of CPU tensors: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _seal(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def save(path: Path | str, model: torch.nn.Module, optimiser: torch.optim.Optimizer | None, **header) -> None:
    """Save a model, its optimiser while training continues, and JSON values for the header.

    Raises CheckpointError if the file cannot be written, FloatingPointError for values that are not finite; the former
    file stays.
    """
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    if optimiser is not None:
        for index, slots in optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{name}": value for name, value in slots.items() if value is not None}
    tensors = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in state.items()}
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise FloatingPointError(
            f"{path}: {bad[0]} is not finite and is not saved; the last good state stays: lower the learning rate"
        )
    facts = {"format": FORMAT, **header, "tensors": _digest(tensors)}
    text = json.dumps(facts | {"checksum": _seal(facts)})  # one entry, since a file does not keep the order of several
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors, {"ppcl": text}))  # save_file would make it private
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path}: could not be written ({reason}); the last good one stays, free some room"
        ) from None


def header(path: Path | str) -> dict:
    """Return the JSON values of a checkpoint's header; CheckpointError if the file is missing, damaged or not ours."""
    return _read(path, whole=False)[0]


def weights(path: Path | str) -> str:
    """Return 16 hexadecimal digits that stand for a checkpoint's tensors; empty if it is not there, or has none."""
    return (header(path).get("tensors") or "")[:16] if Path(path).is_file() else ""


def _read(path: Path | str, whole: bool = True) -> tuple[dict, dict[str, Tensor]]:
    """Return the header's values and, of the whole file, all tensors, checked."""
    path, tensors = Path(path), {}
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; train that stage first")
    try:
        with open(path, "rb") as file:  # not mapped, which some file systems refuse
            start = file.read(8)
            length = min(int.from_bytes(start, "little"), path.stat().st_size)
            content = start + file.read(-1 if whole else length)
        found = json.loads(json.loads(content[8 : 8 + length]).get("__metadata__", {}).get("ppcl", "{}"))
        tensors = safetensors.torch.load(content) if whole else {}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check its permissions and its disk") from None
    except (SafetensorError, ValueError, AttributeError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error}); delete it and train again"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise CheckpointError(f"{path} is not a ppcl checkpoint")
    if found["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {found['format']}, newer than {FORMAT}: update ppcl")
    seal = found.pop("checksum", None)  # the oldest checkpoints have none
    sealed = seal == _seal(found) if seal is not None else "tensors" not in found
    if not sealed or (whole and found.get("tensors") not in (None, _digest(tensors))):
        raise CheckpointError(f"{path} is damaged (it is not what was saved); delete it and train again")
    return found, tensors


def sides(path: Path | str, prefix: str) -> list[int]:
    """Return the side lengths of those tensors that are not empty and whose names begin with `prefix`."""
    tensors = _read(path)[1].items()
    return [side for name, value in tensors if name.startswith(prefix) and value.numel() for side in value.shape]


def load(path: Path | str, model: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None) -> dict:
    """Load a checkpoint into a model, and into the optimiser if the file has its state; -> the header's values."""
    found, whole = _read(path)
    own = model.state_dict()
    tensors, states = {}, {}
    for key, value in whole.items():
        kind, _, name = key.partition(".")
        index, _, slot = name.partition(".")
        if kind == "model":
            tensors[name] = value
        elif kind == "optimiser" and index.isdecimal():
            states.setdefault(int(index), {})[slot] = value
    odd = [n for n, v in tensors.items() if n not in own or v.shape != own[n].shape]
    odd += [n for n in own if n not in tensors]
    if odd:
        raise CheckpointError(f"{path} does not fit this model ({odd[0]}): another recipe or ppcl made it; train again")
    model.load_state_dict(tensors)
    if optimiser is not None and states:
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": states, "param_groups": groups})
        for parameter, state in optimiser.state.items():  # fused steps need the parameter's strides (channels_last)
            for slot, value in state.items():
                if value.shape == parameter.shape:
                    state[slot] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
    return found


def first_difference(mine: dict, theirs: dict, prefix: str = "") -> str | None:
    """Return the first dotted key in which two recipes differ, with both values; None if they agree."""
    for key in sorted(mine.keys() | theirs.keys()):
        a, b = mine.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found = first_difference(a, b, f"{prefix}{key}.")
            if found:
                return found
        elif json.dumps(a) != json.dumps(b):
            return f"{prefix}{key} is {json.dumps(b)} there, {json.dumps(a)} here"
    return None
