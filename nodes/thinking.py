"""Thinking Instruction and Thinking Answer: a language model improves the prompt before the picture is drawn."""

from __future__ import annotations

from comfy_api.latest import io

from ..lumina_core.tokens.thinking import AIMS, read_answer, thinking_instruction
from .prompt import TASKS
from .types import CATEGORY

THOUGHTFUL_TASKS = [name for name, task in TASKS.items() if task in AIMS]


class ThinkingInstruction(io.ComfyNode):
    """What to ask a language model."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_ThinkingInstruction",
            display_name="Thinking Instruction",
            category=CATEGORY,
            description="Words an instruction for any language model's node: think the prompt through and write it "
            "better. Its answer goes to Thinking Answer.",
            inputs=[
                io.Combo.Input(
                    "task", options=THOUGHTFUL_TASKS, default=THOUGHTFUL_TASKS[0], tooltip="As in Task Prompt."
                ),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="", tooltip="What to draw."),
                io.Int.Input("max_words", default=120, min=10, max=500, tooltip="The most words to ask for."),
            ],
            outputs=[
                io.String.Output(display_name="instruction"),
                io.String.Output(display_name="prompt"),
            ],
        )

    @classmethod
    def execute(cls, task, prompt, max_words) -> io.NodeOutput:
        return io.NodeOutput(thinking_instruction(prompt, TASKS[task], max_words), prompt)


class ThinkingAnswer(io.ComfyNode):
    """What to make of a language model's answer."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_ThinkingAnswer",
            display_name="Thinking Answer",
            category=CATEGORY,
            description="Takes the improved prompt out of a language model's answer. An empty or broken answer gives "
            "the plain prompt, and what_happened says so.",
            inputs=[
                io.String.Input("answer", force_input=True, tooltip="From the language model's node."),
                io.String.Input("prompt", force_input=True, tooltip="From Thinking Instruction: the plain prompt."),
                io.Int.Input(
                    "max_characters",
                    default=1000,
                    min=50,
                    max=10000,
                    tooltip="A longer answer is cut, behind a whole sentence where there is one.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt"),
                io.String.Output(display_name="what_happened"),
                io.Boolean.Output(display_name="improved"),
            ],
        )

    @classmethod
    def execute(cls, answer, prompt, max_characters) -> io.NodeOutput:
        thought = read_answer(answer or "", prompt, max_characters)
        return io.NodeOutput(thought.text, thought.note, thought.from_answer)
