"""The demo world: scenes of flat shapes, their captions, pictures and maps, and a judge that reads pictures back."""

from .cells import code_vectors, scene_codes
from .edges import canny
from .judging import judge, judge_strict
from .palette import (
    BACKGROUNDS,
    CANVAS,
    CATEGORIES,
    COLOURS,
    GRID,
    MAPS,
    MORE_COLOURS,
    PEOPLE,
    RELATIONS,
    SHAPES,
    SIZES,
    TRAINING_WEIGHTS,
)
from .recognise import FoundObject, Recognised, recognise, scene_of
from .renderer import ink, render, shape_mask
from .sampling import Sample, fresh_samples, sample, sample_scene, training_rng
from .scenes import Claim, Scene, SceneObject, Spec
from .tasks import EDITS, TASK_NAMES, Panel, TaskSample, fresh_tasks, panel_codes, sample_task

__all__ = [
    "BACKGROUNDS",
    "CANVAS",
    "CATEGORIES",
    "COLOURS",
    "EDITS",
    "GRID",
    "MAPS",
    "MORE_COLOURS",
    "PEOPLE",
    "RELATIONS",
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
    "canny",
    "code_vectors",
    "fresh_samples",
    "fresh_tasks",
    "ink",
    "judge",
    "judge_strict",
    "panel_codes",
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
