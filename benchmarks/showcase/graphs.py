"""The graphs of the help pictures, and the pictures and files that they read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from training.world import Scene, SceneObject, render

from ..arguments import DEMO_CFG
from ..lora import WORD_CFG

LUMINA, DEMO = "LuminaMGPT2_", "demo (built in)"
LOADER, MOVQGAN, LORA = f"{LUMINA}LoadModel", f"{LUMINA}LoadMoVQGAN", f"{LUMINA}LoadLoRA"
PROMPT, SAMPLER, BEST = f"{LUMINA}TaskPrompt", f"{LUMINA}SJDSampler", f"{LUMINA}BestOfN"
STITCH, SPLIT = f"{LUMINA}StitchPanels", f"{LUMINA}SplitPanels"
ENLARGE = {"title": "Enlarge for display", "values": {"upscale_method": "nearest-exact", "scale_by": 4.0}}
DRAWN_ONCE = {"seed": 0, "control_after_generate": "fixed", "cfg": DEMO_CFG}
# Files that the graphs name: pictures in the input folder, and names of files in the models folder.
STYLE_LORA, LANGUAGE_MODEL = "loras/style.safetensors", "text_encoders/qwen_3_4b.safetensors"

# Columns of the graph that draws: loader and prompt, sampler, decode, save.
FIRST, SECOND, THIRD, FOURTH = 0, 300, 610, 860
WIDE, SAMPLER_WIDTH, NARROW, PREVIEW = 260, 270, 210, 260


@dataclass(frozen=True)
class Node:
    """A node of a graph: its type, its place and size (px; a height of 0: as high as it must be) and its widgets."""

    kind: str
    x: int
    y: int
    width: int
    height: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Graph:
    """Nodes by name, links as `source.output target.input`, and whether it is run before it is shown."""

    nodes: dict[str, Node]
    links: tuple[str, ...]
    run: bool = True


def given_pictures() -> dict[str, Image.Image]:
    """The pictures of the world that the graphs load, by file name."""
    fox, tree = _thing("fox", 8, 40), _thing("tree", 56, 40)
    walk = Image.fromarray(render(Scene("snow", (fox, tree))))
    sky = Image.fromarray(
        render(Scene("sky", (_thing("airplane", 8, 0), _thing("sun", 56, 0), _thing("rocket", 32, 56))))
    )
    meadow = _large(Image.fromarray(render(Scene("grass", (_thing("cat", 8, 40), _thing("tree", 56, 40))))))
    hole = Image.new("L", meadow.size, 255)
    hole.paste(0, (meadow.width // 2, 0, *meadow.size))
    meadow.putalpha(hole)
    return {"fox_96.png": walk, "fox.png": _large(walk), "sky.png": _large(sky), "cat.png": meadow}


def _thing(kind: str, x: int, y: int) -> SceneObject:
    return SceneObject(kind, None, "large", x, y)


def _large(picture: Image.Image) -> Image.Image:
    return picture.resize([4 * side for side in picture.size], Image.Resampling.NEAREST)


def drawing(task: str, prompt: str, height: int = 0, **settings: Any) -> Graph:
    """The graph that draws and saves; `height` is that of the node with the result."""
    return Graph(
        {
            "loader": Node(LOADER, FIRST, 0, WIDE, values={"checkpoint": DEMO}),
            "prompt": Node(PROMPT, FIRST, 190, WIDE, 330, {"task": task, "prompt": prompt}),
            "sampler": Node(SAMPLER, SECOND, 0, SAMPLER_WIDTH, 700, DRAWN_ONCE | settings),
            "decode": Node("VAEDecode", THIRD, 0, NARROW),
            "enlarge": Node("ImageScaleBy", THIRD, 110, NARROW, **ENLARGE),
            "save": Node("SaveImage", FOURTH, 0, PREVIEW, height or 350),
        },
        (
            "loader.model sampler.model",
            "loader.vae sampler.vae",
            "prompt.prompt sampler.prompt",
            "sampler.latent decode.samples",
            "loader.vae decode.vae",
            "decode.IMAGE enlarge.image",
            "enlarge.IMAGE save.images",
        ),
    )


def on_canvas(canvas: Node, given: str, task: str, prompt: str, part: str, *links: str) -> Graph:
    """The graph that draws on a canvas of a given picture, and saves a part of what Split Panels returns."""
    graph = drawing(task, prompt)
    more = {
        "given": Node("LoadImage", FIRST, 190, WIDE, 350, {"image": given}),
        "prompt": Node(PROMPT, SECOND, 0, WIDE, 330, graph.nodes["prompt"].values),
        "canvas": canvas,
        "sampler": Node(SAMPLER, 600, 0, SAMPLER_WIDTH, 700, graph.nodes["sampler"].values),
        "decode": Node("VAEDecode", 910, 0, NARROW),
        "split": Node(SPLIT, 910, 110, NARROW),
        "enlarge": Node("ImageScaleBy", 910, 290, NARROW, **ENLARGE),
        "save": Node("SaveImage", 910, 440, PREVIEW - 50, 260),
    }
    joined = (
        "loader.vae canvas.vae",
        "given.IMAGE canvas.image",
        "canvas.canvas sampler.canvas",
        "canvas.canvas split.canvas",
        "decode.IMAGE split.image",
        f"split.{part} enlarge.image",
        *links,
    )
    return Graph(more | {"loader": graph.nodes["loader"]}, (*_without(graph.links, "decode.IMAGE"), *joined))


def _without(links: tuple[str, ...], start: str) -> tuple[str, ...]:
    return tuple(link for link in links if not link.startswith(start))


def graphs() -> dict[str, Graph]:
    """The graph of each help picture by the name of its file."""
    return {
        "text_to_image": drawing("text to image", "a cat and a mushroom on the grass"),
        "sampler": _sampler(),
        "prompt": _prompt(),
        "load_movqgan": _load_movqgan(),
        "best_of_n": _best_of_n(),
        "codec": _codec(),
        "continue_picture": on_canvas(
            Node(f"{LUMINA}ContinuePicture", SECOND, 370, WIDE),
            *("sky.png", "text to image", "an airplane, a sun and a rainbow in the sky", "whole"),
        ),
        "inpaint_picture": on_canvas(
            Node(f"{LUMINA}InpaintPicture", SECOND, 370, WIDE),
            *("cat.png", "text to image", "a cat left of a sunflower on the grass", "whole", "given.MASK canvas.mask"),
        ),
        "panels": on_canvas(
            Node(STITCH, SECOND, 370, WIDE), "fox.png", "edit", "replace the fox with a rabbit", "lower"
        ),
        "lora": _lora(),
        "save_checkpoint": _save_checkpoint(),
        "thinking": _thinking(),
    }


def _sampler() -> Graph:
    graph = drawing("text to image", "a rocket above a moon at night")
    nodes = graph.nodes | {
        "enlarge": Node("ImageScaleBy", FOURTH, 0, PREVIEW, **ENLARGE),
        "report": Node("PreviewAny", THIRD, 130, 510, 210),
        "map": Node("PreviewImage", THIRD, 380, 245, 320, title="Acceptance map"),
        "save": Node("SaveImage", FOURTH + 15, 380, 245, 320),
    }
    return Graph(nodes, (*graph.links, "sampler.report report.source", "sampler.acceptance_map map.images"))


def _prompt() -> Graph:
    graph = drawing("image pair", "a large lion left of a small cactus on the sand")
    nodes = graph.nodes | {
        "text": Node("PreviewAny", THIRD, 440, 510, 260),
        "save": Node("SaveImage", FOURTH, 0, PREVIEW, 400),
    }
    return Graph(nodes, (*graph.links, "prompt.full_prompt text.source"))


def _load_movqgan() -> Graph:
    graph = drawing("text to image", "a sailboat left of a sun in the sky")
    nodes = graph.nodes | {
        "movqgan": Node(MOVQGAN, FIRST, 190, WIDE, values={"movqgan": DEMO}),
        "prompt": Node(PROMPT, FIRST, 310, WIDE, 330, graph.nodes["prompt"].values),
    }
    links = (*_without(graph.links, "loader.vae"), "movqgan.vae sampler.vae", "movqgan.vae decode.vae")
    return Graph(nodes, links)


def _best_of_n() -> Graph:
    graph = drawing("text to image", "a cat, a dog, a rabbit and a fox on the grass", batch_size=8)
    nodes = graph.nodes | {
        "best": Node(BEST, THIRD, 110, NARROW + 30),
        "enlarge": Node("ImageScaleBy", THIRD, 440, NARROW + 30, **ENLARGE),
        "save": Node("SaveImage", THIRD + 300, 0, 300, 330),
        "sheet": Node("PreviewImage", THIRD + 300, 370, 300, 330, title="All eight, the best first"),
    }
    joined = (
        "decode.IMAGE best.images",
        "sampler.latent best.latent",
        "best.best_images enlarge.image",
        "best.contact_sheet sheet.images",
    )
    return Graph(nodes, (*_without(graph.links, "decode.IMAGE"), *joined))


def _codec() -> Graph:
    return Graph(
        {
            "movqgan": Node(MOVQGAN, 0, 0, 250, values={"movqgan": DEMO}),
            "given": Node("LoadImage", 0, 120, 250, 260, {"image": "fox_96.png"}),
            "encode": Node(f"{LUMINA}MoVQGANEncode", 300, 60, 210),
            "decode": Node(f"{LUMINA}MoVQGANDecode", 300, 180, 210),
            "enlarge": Node("ImageScaleBy", 300, 298, 210, **ENLARGE),
            "show": Node("PreviewImage", 560, 0, 330, 380),
        },
        (
            "movqgan.vae encode.vae",
            "movqgan.vae decode.vae",
            "given.IMAGE encode.image",
            "encode.latent decode.samples",
            "decode.image enlarge.image",
            "enlarge.IMAGE show.images",
        ),
    )


def _lora() -> Graph:
    """It is not run: the second LoRA only has a name."""
    graph = drawing("text to image", "a silver star on a black background", cfg=WORD_CFG)
    style = STYLE_LORA.partition("/")[2]
    nodes = {
        "loader": graph.nodes["loader"],
        "first": Node(LORA, 285, 0, 280, values={"lora_name": "demo silver (built in)"}),
        "second": Node(LORA, 590, 0, 280, values={"lora_name": style, "strength": 0.6}),
        "prompt": Node(PROMPT, 440, 160, WIDE, 290, graph.nodes["prompt"].values),
        "sampler": Node(SAMPLER, 895, 0, SAMPLER_WIDTH, values=graph.nodes["sampler"].values),
    }
    links = (
        "loader.model first.model",
        "first.model second.model",
        "second.model sampler.model",
        "loader.vae sampler.vae",
        "prompt.prompt sampler.prompt",
    )
    return Graph(nodes, links, run=False)


def _save_checkpoint() -> Graph:
    return Graph(
        {
            "loader": Node(LOADER, 0, 0, 260, values={"checkpoint": DEMO}),
            "save": Node(f"{LUMINA}SaveCheckpoint", 310, 0, 330, values={"weights": "int4"}),
            "name": Node("PreviewAny", 690, 0, 280, 170),
        },
        ("loader.model save.model", "save.checkpoint name.source"),
    )


def _thinking() -> Graph:
    """Only the text for the language model is made: there is no model."""
    model = LANGUAGE_MODEL.partition("/")[2]
    return Graph(
        {
            "clip": Node("CLIPLoader", 0, 0, 250, values={"clip_name": model, "type": "lumina2"}),
            "ask": Node(
                f"{LUMINA}ThinkingInstruction", 0, 180, 250, 220, {"prompt": "a fox left of a tree in the snow"}
            ),
            "text": Node("PreviewAny", 300, 330, 610, 230, title="What the language model is asked"),
            "generate": Node("TextGenerate", 300, 0, 260, 290, {"max_length": 1024, "sampling_mode": "off"}),
            "answer": Node(f"{LUMINA}ThinkingAnswer", 610, 0, 250),
            "prompt": Node(PROMPT, 910, 0, 250, 300, {"task": "text to image"}),
        },
        (
            "clip.CLIP generate.clip",
            "ask.instruction generate.prompt",
            "ask.instruction text.source",
            "generate.generated_text answer.answer",
            "ask.prompt answer.prompt",
            "answer.prompt prompt.prompt",
        ),
    )
