"""Published tensors as a checkpoint stores them, the blocks' linear weights quantised or not."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..checkpoint.published import UNUSED_PREFIX, is_block_linear, packed_name
from ..checkpoint.single_file import MOVQGAN_PREFIX
from ..checkpoint.tensors import Shape, TensorSpec, TensorStore, check_tensors, dtype_name
from ..errors import CheckpointError
from ..quant.schemes import SCHEMES, PackedTensors, Scheme, quantize

PLAIN_DTYPES = ("F32", "F16", "BF16")


def packed_tensor_specs(name: str, shape: Shape, scheme: Scheme) -> dict[str, TensorSpec]:
    """The packed tensors that the linear weight `name` [out,in] is stored as, by their names in the file."""
    rows, columns = shape
    return {
        packed_name(name, key): TensorSpec(dtype_name(spec.dtype), (rows, *spec.columns))
        for key, spec in scheme.packed_specs(columns).items()
    }


@dataclass(frozen=True)
class WeightSource:
    """The tensors of a model with the `published` names and shapes.

    The linear weights of its blocks are `stored` in a scheme, or else are quantised to `scheme` on `device`.
    """

    store: TensorStore
    published: Mapping[str, Shape]
    stored: str | None
    scheme: Scheme | None
    device: torch.device | str

    def check(self, source: str) -> None:
        """Raises CheckpointError if a tensor of the checkpoint `source` is missing, unexpected or misshapen, or has
        another dtype.
        """
        ignored = (UNUSED_PREFIX, MOVQGAN_PREFIX)
        found = {name: shape for name, shape in self.store.shapes.items() if not name.startswith(ignored)}
        packed, plain, dtypes = dict[str, TensorSpec](), dict[str, Shape](), self.store.dtypes
        for name, shape in self.published.items():
            if self.stored is not None and is_block_linear(name):
                packed |= packed_tensor_specs(name, shape, SCHEMES[self.stored])
            else:
                plain[name] = shape
        check_tensors(found, {**plain, **{name: spec.shape for name, spec in packed.items()}}, source)
        if other := next((name for name in plain if dtypes[name] not in PLAIN_DTYPES), None):
            raise CheckpointError(
                f"{source}: `{other}` holds {dtypes[other]}, expected one of {', '.join(PLAIN_DTYPES)}: get the "
                "checkpoint in one of these forms"
            )
        if other := next((name for name, spec in packed.items() if dtypes[name] != spec.dtype), None):
            raise CheckpointError(
                f"{source}: `{other}` holds {dtypes[other]}, expected {packed[other].dtype}: convert it again"
            )

    def packed(self, name: str) -> PackedTensors:
        """The packed tensors of the linear weight `name`."""
        assert self.scheme is not None, "plain weights have no packed tensors"
        if self.stored is None:
            return quantize(self.scheme, self.store.get(name), self.device, name)
        keys = self.scheme.packed_specs(self.published[name][1])
        return {key: self.store.get(packed_name(name, key)) for key in keys}
