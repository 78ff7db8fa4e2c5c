"""Graphs that live from run to run under ComfyUI's memory management. A stand-in captures: there is no GPU."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from workflows import MODEL, SAVE, text_to_image

# A custom node that makes the CPU a device that captures, and notes each event in a file.
CAPTURE = """
import json
import sys
from pathlib import Path

from server import PromptServer

NODE_CLASS_MAPPINGS = {}
EVENTS = Path(__file__).parents[1] / "events"


def note(event):
    with EVENTS.open("a") as file:
        print(json.dumps(event), file=file)


class Recorded:
    def __init__(self, device):
        pass

    def unavailable(self):
        return ""

    def first(self, step):
        note("first")
        step()

    def capture(self, step):
        note("capture")

        def replay():
            note("replay")
            step()

        return loaded("cuda_graph").Graph(replay, lambda: note("free"))


def loaded(part):
    return next(module for name, module in sys.modules.items() if name.endswith(f".lumina_core.decoding.{part}"))


def patch(prompt):
    loaded("loop").is_gpu = lambda device: True
    cuda_graph = loaded("cuda_graph")
    cuda_graph.captures = lambda choice, device: choice != "off"
    cuda_graph.capture_failure = lambda device, allocates: ""
    cuda_graph.CudaCapture = Recorded
    return prompt


PromptServer.instance.add_on_prompt_handler(patch)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A separate server, since the stand-in patches its process."""
    from comfy_server import ComfyServer, find_comfyui

    class CapturingServer(ComfyServer):
        def _make_folders(self) -> None:
            super()._make_folders()
            (self.base / "custom_nodes" / "capture.py").write_text(CAPTURE)

    found = find_comfyui()
    if isinstance(found, str):
        pytest.skip(found)
    with CapturingServer(*found, tmp_path_factory.mktemp("capture")) as running:
        yield running


@pytest.fixture
def events(server):
    """Counts what happened since the last call."""
    path = server.base / "events"
    path.touch()
    seen = [len(path.read_text().splitlines())]

    def since() -> Counter[str]:
        lines = path.read_text().splitlines()
        new, seen[0] = lines[seen[0] :], len(lines)
        return Counter(map(json.loads, new))

    return since


def workflow(seed: int, compile: str | None = None, window: int = 16, decoder: str = "coupled") -> dict:
    """`compile` None: the loader's default."""
    found = text_to_image(seed=seed, window=window, decoder=decoder)
    found[MODEL]["inputs"] |= {} if compile is None else {"compile": compile}
    return found


def picture(server, seed: int, **changes):
    run = server.run(workflow(seed, **changes))
    assert run.succeeded, run.error
    return np.asarray(server.pictures(run, SAVE)[0])


def test_the_second_picture_is_drawn_by_the_graphs_of_the_first(server, events) -> None:
    picture(server, 1)
    first = events()
    assert first["capture"] and first["replay"]
    second = picture(server, 2)
    assert set(events()) == {"replay"}
    assert np.array_equal(second, picture(server, 2, compile="off"))


def test_free_memory_frees_the_graphs_and_the_next_run_works(server, events) -> None:
    expected = picture(server, 3)
    events()
    server.free()
    assert events()["free"], "unloading the model frees what its last run left"
    assert np.array_equal(picture(server, 3), expected)
    assert events()["capture"]


def test_other_settings_free_the_graphs_of_the_old(server, events) -> None:
    picture(server, 4)
    events()
    picture(server, 4, window=8)
    seen = events()
    assert seen["free"] and seen["capture"]


def test_a_cancelled_run_leaves_graphs_that_work(server, events) -> None:
    picture(server, 5, decoder="ar")
    events()
    assert server.run(workflow(6, decoder="ar"), cancel_at=2).interrupted
    drawn = picture(server, 7, decoder="ar")
    assert set(events()) == {"replay"}
    assert np.array_equal(drawn, picture(server, 7, decoder="ar", compile="off"))


PATCHER = """
import importlib.util
import sys

folder = sys.argv[1]
sys.argv = ["main.py", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import torch

spec = importlib.util.spec_from_file_location("pack", sys.path[0] + "/__init__.py")
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
sys.path.pop(0)
spec.loader.exec_module(module)
from pack.nodes import comfy_adapter as comfy_ui, patchers
import comfy.model_management as management

cpu, asked = torch.device("cpu"), []
layer = torch.nn.Linear(64, 64)
held = [1000]
patcher = patchers.resident_patcher_of(layer, cpu, cpu, lambda: held.pop() if held else 0)
management.load_models_gpu([patcher])
management.load_models_gpu([patcher])
assert held == [1000], "a load of a loaded model frees nothing"
assert patcher.partially_unload(cpu, 600) == 1000 and not held, "what the last run left goes before the weights"
held.append(500)
assert patcher.partially_unload(cpu, 600) >= 500 and not held, "then the weights"
held.append(700)
copy = patcher.clone()
copy.detach()
assert not held, "unloading frees it too"

from pack.lumina_core.model.load import load_transformer
from pack.lumina_core.pipeline import Lumina

plain = Lumina.load("demo", device="cpu")
streamed = load_transformer("demo", dtype=torch.float32, block_operations=comfy_ui.StreamedOperations)
linear = streamed.blocks[0].linears[0]
assert hasattr(linear, "comfy_cast_weights") and not hasattr(streamed.code_head, "comfy_cast_weights")
patchers.keep_resident(streamed, torch.device("meta"))
assert streamed.code_embedding.weight.is_meta and not linear.weight.is_meta, "only linears are streamed"
streamed = load_transformer("demo", dtype=torch.float32, block_operations=comfy_ui.StreamedOperations)
drawn = Lumina(streamed, plain.vocabulary, plain.tokenizer).draw("a red circle", 96, 96, seed=3)
assert torch.equal(drawn.codes, plain.draw("a red circle", 96, 96, seed=3).codes)

from pathlib import Path

from pack.lumina_core.lora.applied import AppliedLora
from pack.lumina_core.lora.file import Lora, LowRank

generator = torch.Generator().manual_seed(0)
down, up = (torch.randn(*shape, generator=generator) for shape in ((3, 256), (256, 3)))
low_rank = {(layer, "o_proj"): LowRank(down / 16, up, 1.0) for layer in range(6)}
lora = AppliedLora(Lora(Path("random"), low_rank, ""), 2.0)
models = Lumina(streamed, plain.vocabulary, plain.tokenizer), plain
worn = [model.with_loras(lora).draw("a red circle", 96, 96, seed=3).codes for model in models]
assert torch.equal(*worn) and not torch.equal(worn[0], drawn.codes), "a LoRA is beside streamed weights too"

import comfy.cli_args
import folder_paths
from pack.nodes import folders, loaders

folder_paths.add_model_folder_path(folders.MODEL_FOLDER, folder)
loaders.captures = lambda choice, device: choice != "off"
for disabled, choice in ((False, "auto"), (True, "off")):
    comfy.cli_args.args.disable_cuda_graphs = disabled
    demo = loaders.open_checkpoint(folders.checkpoint_path(folders.DEMO_NAME))
    loaded = loaders.load_model(folders.DEMO_NAME, demo, "auto", "auto")
    assert loaded.lumina.transformer.compile_choice == choice, "--disable-cuda-graphs is respected"
    assert isinstance(loaded.patcher, patchers.ResidentPatcher) and not loaded.is_dynamic()
print("all hold")
"""


def test_what_stays_on_the_device_and_what_is_freed_first(tmp_path: Path) -> None:
    from comfy_server import PACK, find_comfyui

    found = find_comfyui()
    if isinstance(found, str):
        pytest.skip(found)
    comfyui, python = found
    program = f"import sys; sys.path[:0] = [{str(PACK)!r}, {str(comfyui)!r}]\n{PATCHER}"
    done = subprocess.run(
        [python, "-c", program, str(tmp_path)], check=False, cwd=comfyui, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["all hold"], done.stderr
