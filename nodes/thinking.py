"""Thinking Instruction and Thinking Answer: a language model improves the prompt before drawing."""

from __future__ import annotations

from comfy_api.latest import io

from ..lumina_core.tokens.thinking import AIMS, read_answer, thinking_instruction
from .node import LuminaNode
from .prompt import TASKS
from .types import CATEGORY

TASKS_TO_IMPROVE = [name for name, task in TASKS.items() if task in AIMS]


class ThinkingInstruction(LuminaNode):
    """Writes the instruction for a language model."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_ThinkingInstruction",
            display_name="Thinking Instruction",
            category=CATEGORY,
            description="Writes an instruction for a language model to think the prompt through and improve it. "
            "Connect the model's answer to Thinking Answer.",
            search_aliases=["llm", "prompt enhancer", "rewrite prompt", "improve prompt", "chain of thought", "think"],
            inputs=[
                io.Combo.Input(
                    "task", options=TASKS_TO_IMPROVE, default=TASKS_TO_IMPROVE[0], tooltip="As in Lumina Prompt."
                ),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="", tooltip="What to draw."),
                io.Int.Input("max_words", default=120, min=10, max=500, tooltip="Maximum number of words to ask for."),
            ],
            outputs=[
                io.String.Output(display_name="instruction", tooltip="For the language model."),
                io.String.Output(display_name="prompt", tooltip="The original prompt, for Thinking Answer."),
            ],
        )

    @classmethod
    def execute(cls, task, prompt, max_words) -> io.NodeOutput:
        return io.NodeOutput(thinking_instruction(prompt, TASKS[task], max_words), prompt)


class ThinkingAnswer(LuminaNode):
    """Reads the improved prompt from a language model's answer."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_ThinkingAnswer",
            display_name="Thinking Answer",
            category=CATEGORY,
            description="Extracts the improved prompt from a language model's answer. An empty or broken answer is "
            "replaced by the original prompt.",
            search_aliases=["llm", "prompt enhancer", "parse answer", "improve prompt", "chain of thought", "think"],
            inputs=[
                io.String.Input("answer", force_input=True, tooltip="From the language model's node."),
                io.String.Input("prompt", force_input=True, tooltip="From Thinking Instruction, the original prompt."),
                io.Int.Input(
                    "max_characters",
                    default=1000,
                    min=50,
                    max=10000,
                    tooltip="Maximum length. A longer prompt is cut after its last complete sentence.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="The improved prompt, or the original one."),
                io.String.Output(display_name="what_happened", tooltip="What was taken from the answer, or why not."),
                io.Boolean.Output(display_name="improved", tooltip="Whether the prompt is from the answer."),
            ],
        )

    @classmethod
    def execute(cls, answer, prompt, max_characters) -> io.NodeOutput:
        thought = read_answer(answer or "", prompt, max_characters)
        return io.NodeOutput(thought.text, thought.note, thought.from_answer)
