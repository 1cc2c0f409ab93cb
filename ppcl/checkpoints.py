"""Checkpoints: atomic save, exact resume, safe load. safetensors only, so loading executes nothing.

A file holds the model's tensors under `model.`, while training also the optimiser's under `optimiser.<i>.`; everything
else (recipe, stage, epoch, fusion weights) is JSON in the file's own header.
"""

import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import distributed
from .files import replacing, write_text
from .recipes import Recipe

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or of another recipe: the file and the remedy, in one line."""


def save(path: Path | str, model: torch.nn.Module, optimiser: torch.optim.Optimizer | None, **header) -> None:
    """Save a model, the optimiser while training goes on, and JSON-able facts about them."""
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if optimiser is not None:
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    tensors[f"optimiser.{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    header = json.dumps({"format": FORMAT, **header})  # one key: their order in the file is not kept
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"ppcl": header})
    except OSError as error:
        raise CheckpointError(
            f"{path}: could not be written ({error.strerror or error}); the last good one is kept, free some room"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: could not be written ({error}); the last good one is kept, free some room"
        ) from None


def header(path: Path | str) -> dict:
    """The facts in a checkpoint's header. Raises CheckpointError if the file is missing, damaged or not ours."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; train that stage first")
    try:
        with safe_open(path, "pt") as file:
            raw = file.metadata() or {}
        found = json.loads(raw.get("ppcl", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); delete it and train again"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise CheckpointError(f"{path} is not a ppcl checkpoint")
    if found["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {found['format']}, newer than {FORMAT}: update ppcl")
    return found


def load(path: Path | str, model: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None) -> dict:
    """Load a checkpoint into a model (and the optimiser, where the file has its state); -> the header."""
    found = header(path)
    own = model.state_dict()
    tensors, states = {}, {}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():
                kind, _, name = key.partition(".")
                if kind == "model":
                    tensors[name] = file.get_tensor(key)
                elif kind == "optimiser" and optimiser is not None:
                    index, _, slot = name.partition(".")
                    states.setdefault(int(index), {})[slot] = file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it and train again") from None
    odd = [n for n, v in tensors.items() if n not in own or v.shape != own[n].shape]
    odd += [n for n in own if n not in tensors]
    if odd:
        raise CheckpointError(f"{path} does not fit this model ({odd[0]}); it was trained by another recipe")
    model.load_state_dict(tensors)
    if optimiser is not None and states:
        whole = optimiser.state_dict()
        optimiser.load_state_dict({"state": states, "param_groups": whole["param_groups"]})
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


class Stage:
    """One training run on the disk: resume, log, save. It holds no loop."""

    def __init__(self, path: Path, recipe: Recipe, parts: tuple[str, ...], label: str, **facts):
        self.path, self.label, self.facts = path, label, facts
        whole = recipe.to_dict()
        self.recipe = whole
        self.parts = ("task", "input", "augmentation", "selection", *parts)
        self.epoch = 0
        self.finished = False
        if path.exists():
            found = header(path)
            mine = {part: whole[part] for part in self.parts}
            theirs = {part: found["recipe"].get(part) for part in self.parts}
            difference = first_difference(mine, theirs)
            difference = difference or first_difference(facts, {k: found.get(k) for k in facts})
            if difference:
                raise CheckpointError(f"{path} is of another recipe ({difference}); use another --run, or delete it")
            self.epoch, self.finished = found["epoch"], found["finished"]
        distributed.agree(self.epoch, f"{path} is not the same for all processes: --run must be one folder for all")

    def resume(self, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Continue after the last saved epoch, if there is one; log lines of later epochs are dropped."""
        log = self.path.with_name("log.jsonl")
        lines = log.read_text().splitlines() if log.exists() and self.epoch else []
        whole = [line for line in lines if line.endswith("}")]  # the last one may have been cut off
        if distributed.first():
            write_text(log, "".join(line + "\n" for line in whole if json.loads(line)["epoch"] < self.epoch))
        if self.epoch:
            load(self.path, model, optimiser)

    def log(self, **values) -> None:
        """One JSON line; tensors become numbers here, so that a step itself never waits for the device.

        Of several processes it has the mean, and the first one writes it.
        """
        values = distributed.mean(values)
        line = {
            k: round(float(v.detach() if isinstance(v, Tensor) else v), 6) if isinstance(v, (Tensor, float)) else v
            for k, v in values.items()
        }
        bad = [k for k, v in line.items() if isinstance(v, float) and not math.isfinite(v)]
        if bad:
            where = f"epoch {values['epoch']}, step {values['step']}"
            raise FloatingPointError(
                f"{self.label}: {bad[0]} is {line[bad[0]]} at {where}; the last good state is {self.path}"
            )
        if distributed.first():
            with open(self.path.with_name("log.jsonl"), "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def save(self, model, optimiser, epoch: int, finished: bool, **more) -> None:
        """The state after `epoch` epochs; a finished one carries no optimiser, and all processes wait for it."""
        facts = {**self.facts, **more, "epoch": epoch, "finished": finished, "recipe": self.recipe}
        if distributed.first():
            save(self.path, model, None if finished else optimiser, **facts)
        if finished:
            distributed.wait()
