"""Lumina Prompt."""

from comfy_api.latest import io

from ..lumina_core.errors import InputError
from ..lumina_core.tokens.prompts import MAPS, find_template
from .node import LuminaNode
from .sizes import FROM_MODEL, check_sides, side_input
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
DEFAULT_MAP = "depth"
# web/task_prompt.js hides the widget while this input is connected, or for tasks not in `lumina_tasks`.
UNLESS_CANVAS = {"lumina_hidden_by": "canvas"}


def task_label(task: str) -> str:
    """The name in the list of a task of the engine."""
    return next(label for label, name in TASKS.items() if name == task)


def _tasks_with(name: str) -> dict:
    return {"lumina_tasks": [label for label, task in TASKS.items() if name in find_template(task).requires]}


def _side_input(name: str) -> io.Int.Input:
    tooltip = (
        "The published model was trained around 768x768 and 512x512, and around 512x1024 with two panels; the demo at "
        "96x96 and 96x192. A connected canvas sets the size instead."
    )
    return side_input(name, tooltip, UNLESS_CANVAS)


class TaskPrompt(LuminaNode):
    """Writes the prompt of a task around the user's text."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_TaskPrompt",
            display_name="Lumina Prompt",
            category=CATEGORY,
            description="Writes the prompt of a task: fixed sentences around what you type.",
            search_aliases=[
                *("Task Prompt", "lumina", "prompt", "text encode", "positive prompt", "text to image", "control"),
                "negative prompt",
                *(
                    "controlnet",
                    "image edit",
                    "inpaint",
                    "depth",
                    "canny",
                    "hed",
                    "pose",
                    "subject",
                    "提示词",
                    "文生图",
                ),
            ],
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
                    default=DEFAULT_MAP,
                    optional=True,
                    tooltip="Kind of map. depth: near is bright. canny: thin edges. hed: soft edges. pose: a skeleton.",
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
                    tooltip="Replaces the built-in wording. Must contain {width} and {height}, and {prompt}, {map} and "
                    "{object} where the task uses them. Special tokens count here, not in the prompt.",
                ),
                LuminaCanvas.Input(
                    "canvas",
                    optional=True,
                    tooltip="From Stitch Panels or Continue Picture. Sets width and height.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    placeholder="what to keep away from; empty: nothing",
                    optional=True,
                    tooltip="What to keep away from, in the wording of the task. Empty: none. Needs a cfg other than 1 "
                    "in Lumina Sampler.",
                ),
            ],
            outputs=[
                LuminaPrompt.Output(display_name="prompt", tooltip="For Lumina Sampler."),
                io.String.Output(
                    display_name="full_prompt",
                    tooltip="The text that the model reads. {width} and {height} stand for sides that are 0: the "
                    "sampler fills them in.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, task=None, prompt=None, width=None, height=None, object=None, template=None, negative=None
    ):
        """None is what arrives over a link, or is omitted; it is checked when the node runs."""
        check_sides(width or FROM_MODEL, height or FROM_MODEL)
        if task is not None and task not in TASKS:
            raise InputError(f"task is {task!r:.100}; expected one of {', '.join(TASKS)}")
        if None not in (task, prompt, object, template) and (prompt.strip() or find_template(TASKS[task]).requires):
            values = TASKS[task], prompt, FROM_MODEL, FROM_MODEL, DEFAULT_MAP, object, template
            data = TaskPromptData(*values, negative=negative or "")
            _ = data.text, data.negative_text
        return True

    @classmethod
    def execute(
        cls,
        task,
        prompt,
        width=FROM_MODEL,
        height=FROM_MODEL,
        map=DEFAULT_MAP,
        object="",
        template="",
        canvas=None,
        negative="",
    ) -> io.NodeOutput:
        check_sides(width, height)
        data = TaskPromptData(TASKS[task], prompt, width, height, map, object, template, negative=negative)
        data = data if canvas is None else data.on_canvas(canvas)
        _ = data.negative_text
        return io.NodeOutput(data, str(data.text))
