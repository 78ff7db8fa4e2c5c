"""The demo world: scenes of things and shapes, their captions, pictures and maps, and a judge of pictures."""

from .cells import begins_code, code_factors, code_vectors, looks, scene_codes
from .edges import canny
from .judging import judge, judge_strict
from .palette import (
    BACKGROUNDS,
    CANVAS,
    CATEGORIES,
    CELLS,
    COLOURS,
    GRID,
    KINDS,
    MAPS,
    MORE_COLOURS,
    PEOPLE,
    PLACES,
    PLAIN,
    SHAPES,
    SIZES,
    TRAINING_WEIGHTS,
)
from .recognise import FoundObject, Recognised, recognise, scene_of
from .renderer import render, shape_mask
from .sampling import Sample, crowded_scene, fresh_samples, sample, sample_scene, training_rng
from .scenes import Claim, Scene, SceneObject, Spec, pick, place
from .tasks import EDITS, TASK_NAMES, Panel, TaskSample, fresh_tasks, panel_codes, sample_task

__all__ = [
    "BACKGROUNDS",
    "CANVAS",
    "CATEGORIES",
    "CELLS",
    "COLOURS",
    "EDITS",
    "GRID",
    "KINDS",
    "MAPS",
    "MORE_COLOURS",
    "PEOPLE",
    "PLACES",
    "PLAIN",
    "SHAPES",
    "SIZES",
    "TASK_NAMES",
    "TRAINING_WEIGHTS",
    "Claim",
    "FoundObject",
    "Panel",
    "Recognised",
    "Sample",
    "Scene",
    "SceneObject",
    "Spec",
    "TaskSample",
    "begins_code",
    "canny",
    "code_factors",
    "code_vectors",
    "crowded_scene",
    "fresh_samples",
    "fresh_tasks",
    "judge",
    "judge_strict",
    "looks",
    "panel_codes",
    "pick",
    "place",
    "recognise",
    "render",
    "sample",
    "sample_scene",
    "sample_task",
    "scene_codes",
    "scene_of",
    "shape_mask",
    "training_rng",
]
