"""The numbers: recipe fields with their sources, profiles as differences, rows of the table, overrides, checks."""

from .checks import (
    ARCHITECTURES,
    KINDS,
    PROFILES,
    TASKS,
    check,
    check_files,
    check_processes,
    keys,
    override,
    parse_overrides,
    rows,
)
from .fields import (
    Ablation,
    Augmentation,
    BackboneStage,
    Data,
    GLRecStage,
    Input,
    JointStage,
    Matching,
    PartialLFW,
    Recipe,
    Selection,
    recipe,
)
from .methods import ABLATIONS, METHODS, Method, RecipeError, method, trained_by
