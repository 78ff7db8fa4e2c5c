"""Micro-benchmarks of the kernels: python -m benchmarks.kernels KERNEL [--rows 2 64] [--outputs 64 128] [--warps 4] ...

Each kernel runs alone at a published model's shapes, with the tiles in use or those that the command line names, on
more inputs than the L2 holds. A JSON line for each setting has the time of a call and its share of the device's
bandwidth.
"""

from typing import Any

Figure = dict[str, Any]
"""The measurement of one setting, a line of JSON."""
