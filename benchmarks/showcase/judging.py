"""Whether a graph drew what it asks for, by the judge of the tests: the world's recogniser reads its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .comfyui import use_helpers
from .graphs import PROMPT

OWN_PIXELS = "own pixels"  # A fault of a graph that does not show its canvas.


def is_right(task: str, prompt: str, canvas: np.ndarray) -> bool:
    """Whether a canvas, uint8 [H,W,3], shows what a task of Lumina Prompt asks for, and nothing else."""
    use_helpers()
    from truths import is_true

    try:
        return bool(is_true({"task": task, "prompt": prompt, "map": "depth", "object": ""}, canvas))
    except ValueError:  # what an edit is about is not in the given picture
        return False


def wrong_in(nodes: Mapping[str, dict], shown: Mapping[str, Sequence[np.ndarray]]) -> list[str]:
    """What is wrong in the pictures of the output nodes of a workflow in the API format."""
    use_helpers()
    from truths import faults

    try:
        count, wrong = faults(with_typed_prompts(nodes), shown)
    except ValueError as error:  # what a picture is about is not in the one before it
        return [f"not judged: {error}"]
    return [one for one in wrong if OWN_PIXELS not in one] if count else ["no picture could be judged"]


def with_typed_prompts(nodes: Mapping[str, dict]) -> dict[str, dict]:
    """A workflow in the API format with the typed text as the prompt of each Lumina Prompt."""
    asked = {name: one["inputs"] for name, one in nodes.items() if one["class_type"] == PROMPT}
    typed = {name: {**inputs, "prompt": request_of(nodes, inputs["prompt"])} for name, inputs in asked.items()}
    return dict(nodes) | {name: {"class_type": PROMPT, "inputs": inputs} for name, inputs in typed.items()}


def request_of(nodes: Mapping[str, dict], prompt: str | list) -> str:
    """The text of a prompt, or that which a user typed where nodes for a language model make the prompt of it."""
    while not isinstance(prompt, str):
        prompt = nodes[prompt[0]]["inputs"]["prompt"]
    return prompt
