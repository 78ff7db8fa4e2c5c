"""Task Prompt."""

from comfy_api.latest import io

from ..lumina_core.tokens.prompts import MAPS, find_template
from .sizes import side_input, validate_size
from .types import CATEGORY, LuminaCanvas, LuminaPrompt, TaskPromptData

# Stored workflows contain these names; new ones are appended.
TASKS = {
    "text to image": "t2i",
    "image pair": "pair",
    "controllable": "control",
    "subject-driven": "subject",
    "edit": "edit",
    "predict": "predict",
    "subject-driven (released program)": "subject-released",
}
# web/task_prompt.js hides the widget while this input is connected, or for tasks not in `lumina_tasks`.
UNLESS_CANVAS = {"lumina_hidden_by": "canvas"}


def _tasks_with(name: str) -> dict:
    return {"lumina_tasks": [label for label, task in TASKS.items() if name in find_template(task).requires]}


def _side_input(name: str) -> io.Int.Input:
    tooltip = (
        "Size of the whole canvas; a connected canvas overrides it. The published model was trained around 768x768 and "
        "512x512, and around 512x1024 with two panels; the demo at 64x64 and 64x128."
    )
    return side_input(name, 768, tooltip, UNLESS_CANVAS)


class TaskPrompt(io.ComfyNode):
    """Writes the prompt of a task around the user's text."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_TaskPrompt",
            display_name="Task Prompt",
            category=CATEGORY,
            description="Writes the prompt of a task: fixed sentences around what you type.",
            inputs=[
                io.Combo.Input(
                    "task",
                    options=list(TASKS),
                    default="text to image",
                    tooltip="image pair: a picture and its map, from text. controllable: a picture from a map. "
                    "predict: a map from a picture. controllable, subject-driven, edit and predict need Stitch Panels. "
                    "subject-driven has the wording of the paper or of the released program; edit and predict have "
                    "ours, not in the released code.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="What the picture shows, or what to change in it. Names of special tokens are plain text.",
                ),
                _side_input("width"),
                _side_input("height"),
                io.Combo.Input(
                    "map",
                    options=list(MAPS),
                    default="depth",
                    optional=True,
                    tooltip="Kind of map.",
                    extra_dict=_tasks_with("map"),
                ),
                io.String.Input(
                    "object",
                    default="",
                    optional=True,
                    tooltip="What the given picture shows, for example: a red mug. In the released wording, the prompt "
                    "calls it: this item.",
                    extra_dict=_tasks_with("object"),
                ),
                io.String.Input(
                    "template",
                    multiline=True,
                    default="",
                    placeholder="your own wording; empty: the built-in one",
                    optional=True,
                    advanced=True,
                    tooltip="Replaces the built-in wording. May use {width}, {height}, {prompt}, {map}, {object}. "
                    "Special tokens count here, not in the prompt.",
                ),
                LuminaCanvas.Input(
                    "canvas",
                    optional=True,
                    tooltip="From Stitch Panels or Continue Picture. Sets width and height.",
                ),
            ],
            outputs=[
                LuminaPrompt.Output(display_name="prompt"),
                io.String.Output(display_name="full_prompt"),
            ],
        )

    @classmethod
    def validate_inputs(cls, width=None, height=None):
        return validate_size(width, height)

    @classmethod
    def execute(cls, task, prompt, width, height, map=None, object=None, template="", canvas=None) -> io.NodeOutput:
        data = TaskPromptData(TASKS[task], prompt, width, height, map, object, (template.strip() and template) or None)
        data = data if canvas is None else data.on_canvas(canvas)
        return io.NodeOutput(data, str(data.text))
