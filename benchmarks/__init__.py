"""Measurements of the demo checkpoint and of the engine."""
