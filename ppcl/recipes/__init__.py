"""The numbers: recipe fields with their sources, profiles as differences, rows of the table, overrides and checks."""

from .fields import (
    KINDS,
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
)
from .methods import ABLATIONS, CONTROLS, METHODS, Method, RecipeError, method, trained_by
from .overrides import PROFILES, TASKS, check_files, check_processes, keys, parse_overrides, recipe, rows
