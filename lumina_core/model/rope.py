"""The angles of rotary position embedding (arXiv 2104.09864)."""

import torch
from torch import Tensor


def rope_table(
    length: int, head_dim: int, theta: float, *, dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """cos and sin [length, head_dim] of positions 0…length−1, computed in float32."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * (1.0 / theta**exponent)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)
