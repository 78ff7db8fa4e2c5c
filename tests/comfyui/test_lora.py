"""Load LoRA: the picture changes with the LoRA, and the model that it shares stays as it is."""

from __future__ import annotations

import pytest
import torch
from comfy_server import PACK
from safetensors.torch import save_file
from workflows import MODEL, MOVQGAN, PROMPT, REPORT, SAMPLER, SAVE, node, text_to_image

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.lora.keys import module_name, targets

LORA, PLAIN, PLAIN_DECODE, PLAIN_SAVE = "30", "31", "32", "33"


@pytest.fixture
def lora(server):
    """Writes a LoRA of random values to models/loras; returns a function of its seed. Deletes it afterwards."""
    path = server.base / "models" / "loras" / "style.safetensors"

    def write(seed: int) -> None:
        config = TransformerConfig.from_file(PACK / "lumina_core" / "demo" / "config.json")
        generator, tensors = torch.Generator().manual_seed(seed), {}
        for layer in range(config.num_hidden_layers):
            for matrix in ("q_proj", "down_proj"):
                target, name = targets(config)[matrix], f"base_model.model.{module_name(layer, matrix)}"
                tensors[f"{name}.lora_A.weight"] = torch.randn(4, target.inputs, generator=generator) / 16
                tensors[f"{name}.lora_B.weight"] = torch.randn(target.rows, 4, generator=generator) * 2
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"lora_alpha": "4", "r": "4"})

    write(0)
    yield write
    path.unlink()


def with_lora(strength: float, weights: str) -> dict:
    """A sampler with the LoRA, and one without, of one loader."""
    workflow = text_to_image(seed=5, weights=weights)
    workflow[LORA] = node("LuminaMGPT2_LoadLoRA", model=[MODEL, 0], lora_name="style.safetensors", strength=strength)
    workflow[PLAIN] = node("LuminaMGPT2_SJDSampler", **workflow[SAMPLER]["inputs"])
    workflow[SAMPLER]["inputs"]["model"] = [LORA, 0]
    workflow[PLAIN_DECODE] = node("VAEDecode", samples=[PLAIN, 0], vae=[MOVQGAN, 0])
    workflow[PLAIN_SAVE] = node("SaveImage", images=[PLAIN_DECODE, 0], filename_prefix="plain")
    return workflow


@pytest.mark.parametrize("weights", ["auto", "int4"])
def test_a_lora_changes_the_picture_of_its_sampler_alone(server, lora, weights):
    def pictures(strength: float) -> tuple[bytes, bytes]:
        nonlocal run
        run = server.run(with_lora(strength, weights))
        assert run.succeeded, run.error
        return tuple(server.pictures(run, node_id)[0].tobytes() for node_id in (SAVE, PLAIN_SAVE))

    run = None
    worn, plain = pictures(1.0)
    assert worn != plain and "LoRAs: style.safetensors:1" in run.outputs[REPORT]["text"][0]
    zero, again = pictures(0.0)
    assert zero == again == plain and "LoRAs" not in run.outputs[REPORT]["text"][0]
    assert MODEL not in run.executed and PLAIN not in run.executed
    assert pictures(1.0)[0] == worn
    lora(1)
    assert pictures(1.0)[0] not in (worn, plain) and LORA in run.executed and PROMPT not in run.executed
