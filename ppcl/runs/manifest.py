"""`manifest.json`: recipe, seed, commit, versions, device, data and times of a run."""

import json
import platform
from importlib import metadata
from pathlib import Path

import torch

from .. import recipes
from ..disk import locks
from ..disk.files import read_json, write_text
from ..evaluation import results

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pillow", "matplotlib", "safetensors")


class ReproduceError(RuntimeError):
    """A run that cannot go on: the notebook that failed and its last line, or the fault of its folder."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def manifest(run: Path) -> dict:
    """A run's `manifest.json`; empty if there is none yet. Raises ReproduceError if it is damaged."""
    return read_json(run / "manifest.json", kind=ReproduceError)


def of_profile(run: Path, profile: str) -> dict:
    """A run's manifest. Raises ReproduceError for a run of another profile."""
    known = manifest(run)
    before = next((each["profile"] for each in known.get("recipes", {}).values()), profile)
    if before != profile:
        raise ReproduceError(f"{run} holds a {before} run, not a {profile} one: use another --run")
    return known


def record(run: Path, recipe: recipes.Recipe, where: str, seed: int, **facts) -> None:
    """Write recipe, seed, commit, versions, device and `facts` into `manifest.json`; its other entries are kept."""
    name = torch.cuda.get_device_name() if where == "cuda" else platform.processor() or platform.machine()
    commit = results.commit()
    dirty = None if commit == "unknown" else commit.endswith("-dirty")
    facts |= {"seed": seed, "commit": commit, "dirty": dirty, "versions": versions(), "device": where}
    with locks.merging(run):
        known = of_profile(run, recipe.profile)
        facts |= {"device_name": name, "recipes": known.get("recipes", {}) | {recipe.task: recipe.to_dict()}}
        if "peak_memory_mib" in facts:
            facts["peak_memory_mib"] = max(known.get("peak_memory_mib", 0), facts["peak_memory_mib"])
        facts["seconds"] = known.get("seconds", {}) | facts.get("seconds", {})
        write_text(run / "manifest.json", json.dumps(known | facts, indent=1) + "\n")
