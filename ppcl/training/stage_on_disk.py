"""A training stage in its run folder: steps, checkpoints, log, exact resume, and a clean stop on signals."""

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..data.fingerprint import fingerprint
from ..data.partial_views import make_rng
from ..data.stage_batches import TrainingData
from ..disk import checkpoints, locks, progress
from ..disk.checkpoints import CheckpointError, first_difference, header
from ..disk.files import flush, given_path, write_text
from ..jobs import one_thread
from ..recipes import Recipe
from . import processes

SAVE_EVERY = 30  # seconds at least between saves; a killed run loses this much, or one epoch if that is longer
LOG_EVERY = 10  # steps


def stage_path(run: Path | str, task: str, stage: str, row: str | None = None, seed: int = 0) -> Path:
    """Checkpoint of a stage: `glrec`, `backbone`, or `joint` with its row and seed."""
    folder = given_path(run) / task / stage
    return (folder if row is None else folder / row / f"seed{seed}") / "checkpoint.safetensors"


def start(run: Path | str, task: str) -> dict[str, str]:
    """What stands for the weights of stages 1 and 2, from which the joint stage starts."""
    return {stage: checkpoints.weights(stage_path(run, task, stage)) for stage in ("glrec", "backbone")}


def is_stage(found: dict) -> bool:
    """Return True if a header has the fields that every stage saves, with the right types."""
    kinds = {"recipe": dict, "epoch": int, "finished": bool, "step": int}
    return all(isinstance({"step": 0, **found}.get(key), kind) for key, kind in kinds.items())


def compare(path: Path, found: dict, recipe: dict, parts: tuple[str, ...], remedy: str, name: str, **facts) -> None:
    """Raise CheckpointError if a header's recipe differs in the parts that the stage depends on, or its pictures.

    `name`: the training set, for the message.
    """
    if not is_stage(found):
        raise CheckpointError(f"{path} is no stage's checkpoint; delete it, or use another --run")
    parts = ("task", "data", "input", "augmentation", "selection", *parts)
    mine, theirs = ({part: whole.get(part) for part in parts} for whole in (recipe, found["recipe"]))
    for part, known in Recipe().to_dict().items():
        if isinstance(theirs.get(part), dict):  # a field that is younger than the checkpoint had its default's effect
            theirs[part] = known | theirs[part]
    difference = first_difference(mine, theirs)
    if not difference and "pictures" in facts and facts["pictures"] != found.get("pictures"):
        if (other := found.get("set", name)) != name:
            remedy = f"--set data.training={other.split('/')[0]}, or use another --run"
            raise CheckpointError(f"{path} was trained on {other}, and now {name} is chosen: {remedy}")
        raise CheckpointError(
            f"the pictures of {name} changed since {path} was trained on them: restore them, or use another --run"
        )
    now, began = facts.pop("start", {}), found.get("start") or {}  # older checkpoints have none
    changed = [name for name, one in began.items() if one and now.get(name, one) not in (one, "")]  # "": not there
    if changed and not difference:
        raise CheckpointError(f"{path} began from other weights of {changed[0]}: use another --run, or {remedy}")
    difference = difference or first_difference(facts, {key: found.get(key) for key in facts})
    if difference:
        raise CheckpointError(f"{path} is of another recipe ({difference}); use another --run, or {remedy}")


def read_log(path: Path) -> list[dict]:
    """Lines of a `log.jsonl`; truncated and damaged lines are skipped."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict) and {"epoch", "step"} <= line.keys()]


class Stage:
    """One stage of a run. Its loop takes what `steps` yields, and calls `record` at the end of each step."""

    def __init__(
        self, run: Path | str, recipe: Recipe, data: TrainingData, name: str, seed: int, row: str | None = None
    ):
        how = getattr(recipe, name)
        self.path = stage_path(run, recipe.task, name, row, seed)
        self.name, self.seed, self.data, self.recipe = name, seed, data, recipe.to_dict()
        self.label = {"glrec": "GLRec"}.get(name, f"joint {row}" if row else name)
        self.facts = {"stage": name, "task": recipe.task, "seed": seed, "pictures": data.pictures}
        self.facts |= {} if name == "glrec" else {"classes": data.classes}
        self.facts |= {"method": row, "start": start(run, recipe.task)} if row else {}
        if name == "backbone" and (weights := given_path(how.weights)).is_file():
            self.facts |= {"start": {how.weights: fingerprint(weights.parent, [weights])}}
        count = len(data.train) if name == "glrec" else int((data.labels >= 0).sum())
        self.epochs, self.per_epoch = how.epochs, max(1, count // how.batch)
        self.total = min(how.steps or math.inf, how.epochs * self.per_epoch)
        self.begun, self.finished, self.step = False, False, 0
        self.saved = -math.inf  # time of the last save; the first epoch is always saved
        self.recent: list[tuple[int, Tensor, Tensor]] = []  # (step, loss, pictures) not yet checked
        if self.path.exists():
            found = header(self.path)
            parts = ("glrec", "backbone", "joint", "matching", "partial_lfw") if row else (name,)
            compare(self.path, found, self.recipe, parts, "delete it", data.name, **self.facts)
            self.begun, self.finished = True, found["finished"]
            self.step = found.get("step") or min(found["epoch"] * self.per_epoch, self.total)
        processes.agree(self.step, f"{self.path} is not the same for all processes: --run must be one folder for all")

    def resume(self, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Continue after the last saved step, if there is one; log lines of later steps are dropped."""
        self.model, self.optimiser = model, optimiser
        if processes.is_main():
            for left in self.path.parent.glob(".*.tmp"):
                left.unlink()  # from a process that was killed while saving
            log = self.path.with_name("log.jsonl")
            lines = read_log(log) if log.exists() and self.begun else []
            write_text(log, "".join(json.dumps(line) + "\n" for line in lines if line["step"] < self.step))
        if self.begun:
            checkpoints.load(self.path, model, optimiser)

    def steps(
        self, batches: Callable[[torch.Generator], Iterator[Tensor]], quiet: bool | None
    ) -> Iterator[tuple[int, Tensor, torch.Generator]]:
        """Yield (step, index, rng) of the steps still to do; log, save and stop between them.

        batches(rng): the batches of an epoch, as indices `(B,)` of training pictures. The step's own rng, on the
        stage's device, depends on (seed, stage, epoch, step) alone.
        """
        bar = progress.bar(None, self.label, self.total, quiet, self.step, "steps")
        for epoch in range(self.step // self.per_epoch, math.ceil(self.total / self.per_epoch)):
            rng, before = make_rng(self.seed, self.name, epoch), epoch * self.per_epoch
            for index in islice(batches(rng), self.step - before, self.total - before):
                self.index = index
                rng = make_rng(self.seed, self.name, epoch, self.step, device=self.data.device)
                yield self.step, index, rng
                if self.step % LOG_EVERY == 0:
                    self._log(epoch)
                self.step += 1
                bar.update()
                self._stop_if_signalled(epoch)
            self._save(epoch + 1)
        bar.close()

    def record(self, terms: dict[str, Tensor], measures: dict[str, Tensor]) -> None:
        """Keep the weighted losses and measures of this step.

        They are read only for logging and saving, so that no step waits for the device.
        """
        self.values = {name: value.detach() for name, value in (terms | measures).items()}
        self.recent.append((self.step, sum(self.values[name] for name in terms), self.index))

    def finish(self, **facts) -> None:
        """Save the finished model without its optimiser."""
        self._save(self.epochs, finished=True, **facts)

    def _log(self, epoch: int) -> None:
        self._check()
        line = {"epoch": epoch, "step": self.step, "lr": round(self.optimiser.param_groups[0]["lr"], 6)}
        line |= {name: round(float(value), 6) for name, value in self.values.items()}
        if processes.is_main():
            with open(self.path.with_name("log.jsonl"), "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _check(self) -> None:
        """Raise FloatingPointError that names the first step since the last check whose loss is not finite."""
        recent, self.recent = self.recent, []
        finite = torch.stack([loss for _, loss, _ in recent]).isfinite().tolist() if recent else []
        for good, (step, loss, index) in zip(finite, recent, strict=True):
            if not good:
                last = f"the last good state is {self.path}" if self.path.exists() else "nothing was saved before it"
                raise FloatingPointError(
                    f"{self.label}: the loss is {float(loss)} at epoch {step // self.per_epoch}, step {step}; {last}; "
                    f"the batch: {', '.join(self.data.names[i] for i in index.tolist())}"
                )

    def _save(self, epoch: int, finished: bool = False, **facts) -> None:
        """Save the state after `epoch` epochs, at most every SAVE_EVERY seconds, since saving takes time.

        A finished state is always saved, and so is one inside an epoch, which has its `step` among the facts.
        """
        self._check()
        due = finished or "step" in facts or time.monotonic() - self.saved >= SAVE_EVERY
        if processes.is_main() and due:
            if (log := self.path.with_name("log.jsonl")).exists():
                flush(log)  # the log is on the disk before the checkpoint
            facts = {**self.facts, **facts, "epoch": epoch, "finished": finished, "recipe": self.recipe}
            facts |= {"set": self.data.name}  # for a message: the pictures' hash decides
            checkpoints.save(self.path, self.model, None if finished else self.optimiser, **facts)
            self.saved = time.monotonic()

    def _stop_if_signalled(self, epoch: int) -> None:
        """Save and raise KeyboardInterrupt if a signal came; several processes agree on that every LOG_EVERY steps."""
        if (processes.size() == 1 or self.step % LOG_EVERY == 0) and processes.any_of(_signalled.is_set()):
            self._save(epoch, step=self.step)
            processes.wait()
            raise KeyboardInterrupt


_signalled = threading.Event()


@contextlib.contextmanager
def signals_end_a_step():
    """Let Ctrl-C and SIGTERM stop a stage after its current step, saved. A second Ctrl-C does not wait."""

    def handle(number, _):
        if _signalled.is_set() and number == signal.SIGINT and processes.size() == 1:
            raise KeyboardInterrupt
        _signalled.set()

    _signalled.clear()
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if _signalled.is_set():  # after the last step; the stage is finished
        raise KeyboardInterrupt


@contextlib.contextmanager
def opened(run: Path | str, recipe: Recipe, data: TrainingData, name: str, seed: int, row: str | None = None):
    """Open a stage with one thread, its folder's lock, a clean stop on signals, and advice if GPU memory runs out.

    At its end all processes wait until it is saved.
    """
    path = stage_path(run, recipe.task, name, row, seed)
    busy = f"{path.parent}: another process trains this stage; wait for it, or use another --run"
    held = locks.hold(path.with_name(".lock"), busy, 3) if processes.is_main() else contextlib.nullcontext()
    with held, one_thread(), signals_end_a_step():  # 3 s: the end of a killed run's last step
        try:
            yield Stage(run, recipe, data, name, seed, row)
            processes.wait()
        except torch.OutOfMemoryError:
            raise RuntimeError(half_batch(name, getattr(recipe, name))) from None


def half_batch(name: str, stage) -> str:
    """The remedy when a stage's batch does not fit into GPU memory: half of it, as many pictures of a person."""
    people = getattr(stage, "identities", stage.batch)
    full = f"{name}: out of GPU memory with a batch of {stage.batch}"
    if people < 4:
        return f"{full}; use a larger GPU, or --device cpu"
    half = f"--set {name}.identities={people // 2} " * hasattr(stage, "identities")
    half += f"--set {name}.batch={people // 2 * (stage.batch // people)}"
    return f"{full}; half of it takes half the memory: {half}{', here and in the later stages' * (name != 'joint')}"
