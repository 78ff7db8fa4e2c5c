"""The demo world: scenes of flat shapes, their captions and pictures, and a judge that reads pictures back."""

from .cells import code_vectors, scene_codes
from .judging import judge, judge_strict
from .palette import BACKGROUNDS, CANVAS, CATEGORIES, COLOURS, GRID, RELATIONS, SHAPES, SIZES, TRAINING_WEIGHTS
from .recognise import FoundObject, Recognised, recognise
from .renderer import render, shape_mask
from .sampling import Sample, fresh_samples, sample, sample_scene, training_rng
from .scenes import Claim, Scene, SceneObject, Spec

__all__ = [
    "BACKGROUNDS",
    "CANVAS",
    "CATEGORIES",
    "COLOURS",
    "GRID",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TRAINING_WEIGHTS",
    "Claim",
    "FoundObject",
    "Recognised",
    "Sample",
    "Scene",
    "SceneObject",
    "Spec",
    "code_vectors",
    "fresh_samples",
    "judge",
    "judge_strict",
    "recognise",
    "render",
    "sample",
    "sample_scene",
    "scene_codes",
    "shape_mask",
    "training_rng",
]
