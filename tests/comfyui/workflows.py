"""Workflows in ComfyUI's API format."""

from __future__ import annotations

DEMO = "demo (built in)"
MODEL, MOVQGAN, PROMPT, SAMPLER, DECODE, SAVE, REPORT, MAP = "1", "2", "3", "4", "5", "6", "7", "8"

OPTIONAL_OF_SAMPLER = ("decoder", "window", "kv_cache", "tree", "top_p", "min_p")


def text_to_image(prompt: str = "a red circle left of a blue square", **changes) -> dict:
    """Draws with the demo at 96x96, core VAE Decode and Save Image. `changes` sets inputs of any node, by name."""
    workflow = {
        MODEL: node("LuminaMGPT2_LoadModel", checkpoint=DEMO, weights="auto"),
        MOVQGAN: node("LuminaMGPT2_LoadMoVQGAN", movqgan=DEMO),
        PROMPT: node("LuminaMGPT2_TaskPrompt", task="text to image", prompt=prompt, width=96, height=96),
        SAMPLER: node(
            "LuminaMGPT2_SJDSampler",
            model=[MODEL, 0],
            vae=[MOVQGAN, 0],
            prompt=[PROMPT, 0],
            seed=0,
            cfg=1.25,
            top_k=4096,
            temperature=1.0,
            batch_size=1,
        ),
        DECODE: node("VAEDecode", samples=[SAMPLER, 0], vae=[MOVQGAN, 0]),
        SAVE: node("SaveImage", images=[DECODE, 0], filename_prefix="lumina"),
        REPORT: node("PreviewAny", source=[SAMPLER, 1]),
        MAP: node("PreviewImage", images=[SAMPLER, 2]),
    }
    for name, value in changes.items():
        owners = [node for node in workflow.values() if name in node["inputs"]]
        owners = [workflow[SAMPLER]] if name in OPTIONAL_OF_SAMPLER else owners
        assert owners, name
        owners[0]["inputs"][name] = value
    return workflow


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}
