"""Checkpoints: atomic save, exact resume, safe load. safetensors only, so loading executes nothing.

A file holds the model's tensors under `model.`, while training also the optimiser's under `optimiser.<i>.`; everything
else (recipe, stage, epoch, fusion weights) is JSON in the file's own header, with a checksum of the tensors and one of
itself. What else a run folder needs, one process at a time and an orderly stop, is in guard.py.
"""

import contextlib
import hashlib
import json
import math
import os
import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import distributed, guard
from .files import flush, replacing, write_text
from .recipes import Recipe

FORMAT = 1
SAVE_EVERY = 30  # seconds, at least, between two epochs that are saved: what a kill may cost, beside an epoch


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


def of_a_stage(found: dict) -> bool:
    """Whether a header has what every stage saves, of the kinds that it saves."""
    kinds = {"recipe": dict, "epoch": int, "finished": bool, "step": int}
    return all(isinstance({"step": 0, **found}.get(key), kind) for key, kind in kinds.items())


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


def compare(path: Path, found: dict, recipe: dict, parts: tuple[str, ...], remedy: str, **facts) -> None:
    """Raise CheckpointError where a stage's header is of another recipe, in what its stage depends on."""
    if not of_a_stage(found):
        raise CheckpointError(f"{path} is no stage's checkpoint; delete it, or use another --run")
    parts = ("task", "input", "augmentation", "selection", *parts)
    mine, theirs = ({part: whole.get(part) for part in parts} for whole in (recipe, found["recipe"]))
    difference = first_difference(mine, theirs)
    if not difference and "pictures" in facts and facts["pictures"] != found.get("pictures"):
        raise CheckpointError(f"{path} was trained on other pictures than those of this --data; use another --run")
    difference = difference or first_difference(facts, {key: found.get(key) for key in facts})
    if difference:
        raise CheckpointError(f"{path} is of another recipe ({difference}); use another --run, or {remedy}")


def of_stage(run: Path | str, task: str, stage: str) -> Path:
    """Where a run keeps what stage 1 or 2, `glrec` or `backbone`, trained."""
    return Path(run) / task / stage / "checkpoint.safetensors"


def read_log(path: Path) -> list[dict]:
    """The lines of a `log.jsonl`; one that was cut off or damaged is left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and {"epoch", "step"} <= line.keys()]


class Stage:
    """One training run on the disk: resume, log, save. It holds no loop."""

    def __init__(self, path: Path, recipe: Recipe, parts: tuple[str, ...], label: str, **facts):
        self.path, self.label, self.facts = path, label, facts
        self.recipe = recipe.to_dict()
        self.epoch = 0
        self.step = 0  # of all epochs, where the last save was inside one
        self.saved = -math.inf  # when the last save was done; the first epoch's is never put off
        self.recent: list = []  # (epoch, step, loss, pictures) of steps that nobody has looked at yet
        self.finished = False
        if path.exists():
            found = header(path)
            compare(path, found, self.recipe, parts, "delete it", **facts)
            self.epoch, self.finished, self.step = found["epoch"], found["finished"], found.get("step", 0)
        distributed.agree(
            (self.epoch, self.step), f"{path} is not the same for all processes: --run must be one folder for all"
        )

    def resume(self, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Continue after the last saved step, if there is one; log lines of later steps are dropped."""
        log, begun = self.path.with_name("log.jsonl"), self.epoch or self.step
        whole = read_log(log) if log.exists() and begun else []
        if distributed.first():
            for part in self.path.parent.glob(".*.tmp"):
                part.unlink()  # of a process that was killed while it saved
            kept = [line for line in whole if line["epoch"] < self.epoch or line["step"] < self.step]
            write_text(log, "".join(json.dumps(line) + "\n" for line in kept))
        if begun:
            load(self.path, model, optimiser)

    def begin(self, per_epoch: int, total: int) -> int:
        """The step to go on with."""
        return self.step or min(self.epoch * per_epoch, total)

    def watch(self, epoch: int, step: int, loss: Tensor, data, index: Tensor) -> None:
        """A step was made, of this loss on these of the training pictures.

        The loss is looked at when something is logged or saved, so that the step itself does not wait for the device.
        """
        self.recent.append((epoch, step, loss.detach(), data, index))

    def asked(self, step: int, every: int, device: torch.device) -> bool:
        """Whether a signal asked to stop; of several processes all know it after the same step, one of each `every`."""
        if distributed.size() == 1:
            return guard.asked()
        return step % every == 0 and distributed.anyone(guard.asked(), device)

    def stop_if_asked(self, model, optimiser, epoch: int, step: int, every: int) -> None:
        """After `step` steps: if a signal asked for it, save and raise KeyboardInterrupt.

        A notebook whose `reproduce` was killed stops without saving: another may be at work already.
        """
        if guard.orphaned():
            raise KeyboardInterrupt
        if self.asked(step, every, next(model.parameters()).device):
            self.save(model, optimiser, epoch, False, step=step)
            distributed.wait()
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise FloatingPointError that names the first step since the last look whose loss is not finite."""
        recent, self.recent = self.recent, []
        fine = torch.stack([loss for _, _, loss, *_ in recent]).isfinite().tolist() if recent else []
        for good, (epoch, step, loss, data, index) in zip(fine, recent, strict=True):
            if not good:
                last = f"the last good state is {self.path}" if self.path.exists() else "nothing was saved before it"
                raise FloatingPointError(
                    f"{self.label}: the loss is {float(loss)} at epoch {epoch}, step {step}; {last}; "
                    f"the batch: {', '.join(data.names[i] for i in index.tolist())}"
                )

    def log(self, **values) -> None:
        """One JSON line; tensors become numbers here, so that a step itself never waits for the device.

        Of several processes it has the mean, and the first one writes it.
        """
        self.check()
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
        """The state after `epoch` epochs, unless one was saved within SAVE_EVERY.

        A large one takes as long as many steps. Always saved is what a signal asked for, which names its `step`, and a
        finished one, which carries no optimiser and for which all processes wait.
        """
        facts = {**self.facts, **more, "epoch": epoch, "finished": finished, "recipe": self.recipe}
        self.check()
        due = finished or "step" in more or time.monotonic() - self.saved >= SAVE_EVERY
        if distributed.first() and due:
            if (log := self.path.with_name("log.jsonl")).exists():
                flush(log)  # a checkpoint is never on the disk without the lines before it
            save(self.path, model, None if finished else optimiser, **facts)
            self.saved = time.monotonic()
        if finished:
            distributed.wait()
