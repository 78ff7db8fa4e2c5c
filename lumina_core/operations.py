"""Default layer classes of the models. ComfyUI nodes pass their own namespace of the same names instead."""

from torch import Tensor, nn

from .kernels.linear import linear

__all__ = ["Conv2d", "Embedding", "GroupNorm", "Linear", "RMSNorm"]

Conv2d = nn.Conv2d
GroupNorm = nn.GroupNorm
RMSNorm = nn.RMSNorm


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
