"""A stage of training on the disk: its checkpoint and its log, exact resume, when to save and when to stop."""

import contextlib
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from ..disk import checkpoints, processes, run_lock
from ..disk.checkpoints import CheckpointError, first_difference, header
from ..disk.files import flush, write_text
from ..recipes import Recipe

SAVE_EVERY = 30  # seconds, at least, between two epochs that are saved: what a kill may cost, beside an epoch


def of_a_stage(found: dict) -> bool:
    """Whether a header has what every stage saves, of the kinds that it saves."""
    kinds = {"recipe": dict, "epoch": int, "finished": bool, "step": int}
    return all(isinstance({"step": 0, **found}.get(key), kind) for key, kind in kinds.items())


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
        processes.agree(
            (self.epoch, self.step), f"{path} is not the same for all processes: --run must be one folder for all"
        )

    def resume(self, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Continue after the last saved step, if there is one; log lines of later steps are dropped."""
        log, begun = self.path.with_name("log.jsonl"), self.epoch or self.step
        whole = read_log(log) if log.exists() and begun else []
        if processes.first():
            for part in self.path.parent.glob(".*.tmp"):
                part.unlink()  # of a process that was killed while it saved
            kept = [line for line in whole if line["epoch"] < self.epoch or line["step"] < self.step]
            write_text(log, "".join(json.dumps(line) + "\n" for line in kept))
        if begun:
            checkpoints.load(self.path, model, optimiser)

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
        if processes.size() == 1:
            return run_lock.asked()
        return step % every == 0 and processes.anyone(run_lock.asked(), device)

    def stop_if_asked(self, model, optimiser, epoch: int, step: int, every: int) -> None:
        """After `step` steps: if a signal asked for it, save and raise KeyboardInterrupt."""
        if self.asked(step, every, next(model.parameters()).device):
            self.save(model, optimiser, epoch, False, step=step)
            processes.wait()
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
        values = processes.mean(values)
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
        if processes.first():
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
        if processes.first() and due:
            if (log := self.path.with_name("log.jsonl")).exists():
                flush(log)  # a checkpoint is never on the disk without the lines before it
            checkpoints.save(self.path, model, None if finished else optimiser, **facts)
            self.saved = time.monotonic()
        if finished:
            processes.wait()
