"""Whole numbers on a command line."""

import argparse


def positive(text: str) -> int:
    """A whole number from 1 on."""
    return _at_least(1, int(text))


def natural(text: str) -> int:
    """A whole number from 0 on."""
    return _at_least(0, int(text))


def _at_least(lowest: int, value: int) -> int:
    if value < lowest:
        raise argparse.ArgumentTypeError(f"{value} is not at least {lowest}")
    return value
