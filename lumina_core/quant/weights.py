"""The user's choice of the weights' dtype, and the plan that follows from it."""

from dataclasses import dataclass

import torch

from ..device import check_dtype
from ..errors import InputError
from .schemes import SCHEMES, Scheme

AUTO = "auto"
FLOATS = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
CHOICES = (AUTO, *FLOATS, *SCHEMES)


@dataclass(frozen=True)
class WeightsPlan:
    """`scheme` of the blocks' linear layers, None if not quantised; `dtype` of all else and of the computation."""

    dtype: torch.dtype
    scheme: Scheme | None = None

    @property
    def name(self) -> str:
        """The choice that gives this plan."""
        if self.scheme is not None:
            return self.scheme.name
        return self.dtype_name

    @property
    def dtype_name(self) -> str:
        """One of FLOATS, or PyTorch's name of another dtype."""
        names = {dtype: name for name, dtype in FLOATS.items()}
        return names.get(self.dtype, str(self.dtype).removeprefix("torch."))

    @property
    def choice(self) -> str:
        """The choice that gives this plan where the computation is in `dtype`."""
        return AUTO if self.scheme is None else self.scheme.name


def plan_weights(choice: str, stored: str | None, dtype: torch.dtype) -> WeightsPlan:
    """The plan for a checkpoint whose blocks are `stored` in a scheme (None: not quantised).

    auto takes the weights as they are stored; the schemes quantise plain weights, and those that store the same values
    (int8, int8-dynamic) take each other's; the floats are for plain weights and replace `dtype`. Raises InputError
    for an unknown choice, and for one that the stored scheme rules out.
    """
    if not isinstance(choice, str) or choice not in CHOICES:
        raise InputError(f"weights is {choice!r}; expected one of {', '.join(CHOICES)}")
    if stored is not None and choice != AUTO and not same_values(stored, choice):
        raise InputError(
            f"weights is {choice} and the checkpoint was converted to {stored}, which cannot be undone; choose auto, "
            "or the checkpoint that it was converted from"
        )
    scheme = SCHEMES.get((stored or "") if choice == AUTO else choice)
    return WeightsPlan(FLOATS.get(choice, dtype), scheme)


def check_device_holds(plan: WeightsPlan, device: torch.device) -> None:
    """Raises InputError for weights in a dtype that a device does not hold, such as fp8 on an Apple GPU."""
    specs = {} if plan.scheme is None else plan.scheme.packed_specs(1)
    for dtype in dict.fromkeys((plan.dtype, *(spec.dtype for spec in specs.values()))):
        check_dtype(dtype, device)


def same_values(stored: str, choice: str) -> bool:
    """Whether a choice of weights takes the values of a stored scheme as they are."""
    scheme = SCHEMES.get(choice)
    return scheme is not None and scheme.stored_as == SCHEMES[stored].stored_as
