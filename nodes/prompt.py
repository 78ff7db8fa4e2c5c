"""Task Prompt."""

from comfy_api.latest import io

from ..lumina_core.panels import UNIT_PIXELS
from ..lumina_core.prompts import build_prompt
from .types import CATEGORY, LuminaPrompt, TaskPromptData

TASKS = {"text to image": "t2i"}
LONGEST_SIDE = 4096


def size_problem(**sides: int | None) -> str | None:
    """What is wrong with the sides that are known, or None."""
    for name, side in sides.items():
        if side is None:
            continue
        if side % UNIT_PIXELS or not UNIT_PIXELS <= side <= LONGEST_SIDE:
            nearest = min(max(UNIT_PIXELS, round(side / UNIT_PIXELS) * UNIT_PIXELS), LONGEST_SIDE)
            return (
                f"{name} is {side}; expected a multiple of {UNIT_PIXELS} up to {LONGEST_SIDE}, the nearest is {nearest}"
            )
    return None


def _side_input(name: str) -> io.Int.Input:
    return io.Int.Input(
        name,
        default=768,
        min=UNIT_PIXELS,
        max=LONGEST_SIDE,
        step=UNIT_PIXELS,
        tooltip=f"{name.capitalize()} in pixels, a multiple of {UNIT_PIXELS}. The published model was trained around "
        "768x768 and 512x512, the demo at 64x64.",
    )


class TaskPrompt(io.ComfyNode):
    """The instruction in the wording that the model was trained on."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_TaskPrompt",
            display_name="Task Prompt",
            category=CATEGORY,
            description="Words a task the way the model was trained on it. The second output shows the full prompt.",
            inputs=[
                io.Combo.Input("task", options=list(TASKS), default="text to image", tooltip="What to draw from what."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="What the picture shows. Names of special tokens are taken as plain text.",
                ),
                _side_input("width"),
                _side_input("height"),
            ],
            outputs=[
                LuminaPrompt.Output(display_name="prompt"),
                io.String.Output(display_name="full_prompt"),
            ],
        )

    @classmethod
    def validate_inputs(cls, width=None, height=None):
        return size_problem(width=width, height=height) or True

    @classmethod
    def execute(cls, task, prompt, width, height) -> io.NodeOutput:
        text = build_prompt(TASKS[task], width, height, prompt)
        return io.NodeOutput(TaskPromptData(TASKS[task], text, width, height), text)
