"""The demo world: scenes of flat shapes, their captions and pictures, and a judge that reads pictures back."""

from .palette import BACKGROUNDS, CANVAS, CATEGORIES, COLOURS, GRID, RELATIONS, SHAPES, SIZES, TRAINING_WEIGHTS
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
    "Sample",
    "Scene",
    "SceneObject",
    "Spec",
    "fresh_samples",
    "render",
    "sample",
    "sample_scene",
    "shape_mask",
    "training_rng",
]
