"""From files on a disk to batches: layouts, drawn sets, the image bank, partial views."""

from pathlib import Path

from ..drawn import faces, people
from ..drawn.records import NOTE, occupied
from ..recipes import Recipe
from . import datasets


def ready(recipe: Recipe, data: Path | str, quiet: bool | None = None) -> Path:
    """The data folder of a run; outside the paper profile pictures are drawn into it where it is missing or empty.

    A folder with the user's own sets is left as it is. What is drawn does not depend on a run's seed, so that seeds can
    be compared. Raises DataError that says how to get the real training set where it is not there.
    """
    data = Path(data)
    if recipe.profile != "paper" and not is_own(data) and not datasets.is_drawn(data, datasets.TRAINING[recipe.task]):
        synthesise(recipe.task, data, 0, recipe.scale, quiet)
    datasets.training_set(recipe.task, data)
    return data


def is_own(data: Path) -> bool:
    """Whether a folder holds something that was not drawn, hidden files aside: the user's own sets, left alone."""
    return occupied(data) and not (data / NOTE).is_file()


def synthesise(task: str, out: Path | str, seed: int = 0, scale: str = "demo", quiet: bool | None = None) -> None:
    """Draw a task's sets into a folder. Raises DataError for a folder that holds others."""
    {"person": people.draw_people, "face": faces.draw_faces}[task](Path(out), seed, scale, quiet)
