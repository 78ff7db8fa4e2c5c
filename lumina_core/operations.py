"""Default layer classes of the models. ComfyUI nodes pass their own namespace of the same names instead."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels.buffers import Buffers
from .kernels.linear import linear

__all__ = ["Conv2d", "Embedding", "GroupNorm", "Linear", "RMSNorm"]

Conv2d = nn.Conv2d
GroupNorm = nn.GroupNorm


class RMSNorm(nn.RMSNorm):
    """An RMSNorm in the dtype of its input, whatever that of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Embedding(nn.Embedding):
    """An embedding that is not initialised on the meta device, which takes torch two seconds in every process."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Linear(nn.Linear):
    """A linear layer without bias, by `kernels.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is None, "the transformer's linear layers have no bias"
        return linear(x, self.weight)

    def partial_sums(self, x: Tensor, buffers: Buffers | None = None) -> Tensor:
        """The matmul of rows [n,in] as [1,n,out], in the buffers where it is given any."""
        if buffers is None or x.device.type == "cpu":
            return self(x)[None]
        out = buffers.empty("linear", (len(x), self.out_features), x.dtype)
        return torch.mm(x, self.weight.t(), out=out)[None]
