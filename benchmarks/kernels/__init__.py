"""Micro-benchmarks of the kernels: python -m benchmarks.kernels KERNEL [--rows 2 64] [--outputs 64 128] [--warps 4] ...

Each kernel runs alone at a published model's shapes, on inputs so many that the L2 cannot hold them, with the tiles in
use or those that the command line names. A JSON line a setting says how long a call takes and what share of the
device's bandwidth it reaches.
"""

from typing import Any

Figure = dict[str, Any]
"""What was measured of one setting, as a line of JSON."""
