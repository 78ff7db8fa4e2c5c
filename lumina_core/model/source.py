"""Published tensors as a checkpoint stores them: the blocks' linear weights plain, or as pieces of a scheme."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..checkpoint.single_file import MOVQGAN_PREFIX
from ..checkpoint.tensors import Shape, TensorSpec, TensorStore, check_tensors, dtype_name
from ..errors import CheckpointError
from ..quant.schemes import SCHEMES, Pieces, Scheme, quantize

UNUSED_PREFIX = "model.vqmodel."
PLAIN_DTYPES = ("F32", "F16", "BF16")
BLOCK_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def is_block_linear(name: str) -> bool:
    """Whether a published tensor is the weight of a block's linear layer: what is quantised."""
    return name.split(".")[-2] in BLOCK_LINEARS


def piece_name(name: str, piece: str) -> str:
    """The name of a piece of the weight `name`."""
    return f"{name.removesuffix('weight')}{piece}"


def piece_specs(name: str, shape: Shape, scheme: Scheme) -> dict[str, TensorSpec]:
    """What is stored of the linear weight `name` [out,in], by piece."""
    rows, columns = shape
    pieces = scheme.pieces(columns)
    return {key: TensorSpec(dtype_name(piece.dtype), (rows, *piece.columns)) for key, piece in pieces.items()}


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
        """Raises CheckpointError when a tensor is missing, unexpected, misshapen or holds another kind of numbers.

        `source` names the checkpoint.
        """
        unused = (UNUSED_PREFIX, MOVQGAN_PREFIX)
        found = {name: shape for name, shape in self.store.shapes.items() if not name.startswith(unused)}
        pieces = self._stored_pieces()
        plain = {name: shape for name, shape in self.published.items() if not self._is_stored_in_pieces(name)}
        check_tensors(found, {**plain, **{name: spec.shape for name, spec in pieces.items()}}, source)
        kinds = self.store.dtypes
        for name in plain:
            if kinds[name] not in PLAIN_DTYPES:
                raise CheckpointError(
                    f"{source}: `{name}` holds {kinds[name]}, expected one of {', '.join(PLAIN_DTYPES)}: get the "
                    "checkpoint in one of these forms"
                )
        for name, spec in pieces.items():
            if kinds[name] != spec.dtype:
                raise CheckpointError(
                    f"{source}: `{name}` holds {kinds[name]}, expected {spec.dtype}: convert it again"
                )

    def pieces(self, name: str) -> Pieces:
        """What is stored of the linear weight `name`."""
        assert self.scheme is not None, "plain weights have no pieces"
        if self.stored is None:
            return quantize(self.scheme, self.store.get(name), self.device, name)
        keys = piece_specs(name, self.published[name], self.scheme)
        return {key: self.store.get(piece_name(name, key)) for key in keys}

    def _is_stored_in_pieces(self, name: str) -> bool:
        return self.stored is not None and is_block_linear(name)

    def _stored_pieces(self) -> dict[str, TensorSpec]:
        if self.stored is None:
            return {}
        scheme = SCHEMES[self.stored]
        return {
            piece_name(name, key): spec
            for name, shape in self.published.items()
            if is_block_linear(name)
            for key, spec in piece_specs(name, shape, scheme).items()
        }
