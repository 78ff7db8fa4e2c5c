"""A model of which all but the transformer's weights is read: what it takes, and what its pictures are called."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from ..checkpoint.find import Checkpoint
from ..checkpoint.locate import find_movqgan
from ..decoding.request import Request
from ..device import choose_dtype, total_bytes
from ..files.fingerprint import sampled_hash
from ..lora.applied import AppliedLora, in_use, read_applied
from ..memory import Budget, choose_weights
from ..movqgan.autoencoder import MoVQGAN
from ..pictures.metadata import PictureSettings
from ..pipeline import Lumina, load_codec
from ..quant.weights import WeightsPlan
from ..tokens.prompts import find_template
from .common import demand_of, device_budget, fit_request, loading_bar

# Decoders that draw the same picture at every window.
_SAME_AT_EVERY_WINDOW = ("gumbel", "ar")


@dataclass(frozen=True)
class PlannedModel:
    """What `generate` loads. `options` are those of the command."""

    options: argparse.Namespace
    device: torch.device
    checkpoint: Checkpoint
    weights: WeightsPlan
    codec: MoVQGAN
    budget: Budget | None
    loras: tuple[AppliedLora, ...]

    @classmethod
    def of(cls, options: argparse.Namespace, checkpoint: Checkpoint, device: torch.device) -> PlannedModel:
        """Reads LoRAs, loads the codec, chooses the weights' dtype. Raises InputError, CheckpointError, OutOfMemory."""
        loras = tuple(read_applied(one, checkpoint.config) for one in options.lora)
        dtype, capacity = choose_dtype(device), total_bytes(device)
        weights = choose_weights(options.weights, checkpoint.scheme, dtype, checkpoint.config, capacity)
        budget = device_budget(device)
        return cls(options, device, checkpoint, weights, load_codec(checkpoint, options.movqgan, device), budget, loras)

    def fit(self, request: Request) -> Request:
        """The request, with the cache that fits. Raises OutOfMemory where none does."""
        parts = self.checkpoint.config, self.weights, request, self.codec.config, self.device
        return fit_request(demand_of(self.options, *parts, self.loras), self.budget)

    def load(self) -> Lumina:
        how = {"weights": self.weights.name, "device": self.device, "compile": self.options.compile}
        with loading_bar(self.checkpoint, self.weights) as on_progress:
            lumina = Lumina.load(self.checkpoint, movqgan=self.codec, on_progress=on_progress, **how)
        return lumina.with_loras(*self.loras)

    @cached_property
    def identity(self) -> str:
        """A fingerprint of config, weights and codec, wherever they lie."""
        codec = self.options.movqgan or self.checkpoint.movqgan
        codec = find_movqgan(codec) if codec is not None and codec.is_dir() else codec
        weights = sorted(self.checkpoint.tensors.paths, key=lambda path: path.name)
        files = [*weights, *([codec] if codec is not None else [])]
        return sampled_hash(files, json.dumps(self.checkpoint.config_values, sort_keys=True))

    def settings(
        self, options: argparse.Namespace, request: Request, condition_id: str | None, mask_id: str | None = None
    ) -> list[PictureSettings]:
        """What decides each picture of a request. `options` are those that it was made of.

        `condition_id` and `mask_id` are the `file_hash` of their condition and mask.
        """
        own = request.settings
        required = find_template(options.task).requires
        condition: Path | None = options.condition
        first = PictureSettings(
            prompt=options.prompt,
            task=options.task,
            width=options.width,
            height=options.height,
            seed=own.seed,
            cfg=own.cfg_scale,
            top_k=own.top_k,
            temperature=own.temperature,
            decoder=own.decoder,
            window=None if own.decoder in _SAME_AT_EVERY_WINDOW else own.window_size,
            weights=self.weights.name,
            kv=own.kv_cache,
            dtype=str(self.weights.dtype).removeprefix("torch."),
            steps=int(request.drawn[0].sum()),
            model=self.checkpoint.path.resolve().name,
            model_id=self.identity,
            map=options.map if "map" in required else None,
            object=options.object if "object" in required else None,
            condition=None if condition is None else condition.name,
            condition_id=condition_id,
            given_height=options.given_height,
            mask=None if options.mask is None else options.mask.name,
            mask_id=mask_id,
            top_p=own.top_p if own.top_p < 1 else None,
            min_p=own.min_p if own.min_p > 0 else None,
            negative=None if request.negative_prompts is None else options.negative,
            loras=[{**one.values(), "id": one.lora.id} for one in in_use(self.loras)] or None,
        )
        return [replace(first, seed=own.seed + k) for k in range(options.batch)]
