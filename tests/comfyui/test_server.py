"""The pack in a ComfyUI server, over HTTP and websocket."""

from __future__ import annotations

import numpy as np
import pytest
from workflows import DECODE, MAP, MODEL, MOVQGAN, PROMPT, REPORT, SAMPLER, SAVE, text_to_image

NODES = (
    *("LoadModel", "LoadMoVQGAN", "TaskPrompt", "SJDSampler", "MoVQGANDecode", "MoVQGANEncode"),
    *("StitchPanels", "ContinuePicture", "SplitPanels"),
    *("BestOfN", "ThinkingInstruction", "ThinkingAnswer"),
)


def test_the_nodes_are_registered(server):
    for name in NODES:
        info = server.get(f"/object_info/LuminaMGPT2_{name}")[f"LuminaMGPT2_{name}"]
        assert info["category"] == "Lumina-mGPT 2.0"
    imported = [line for line in server.log.splitlines() if line.endswith("custom_nodes/comfyui-lumina-mgpt2")]
    assert imported and not any("IMPORT FAILED" in line for line in imported)


def test_the_example_workflow_is_listed(server):
    templates = server.get("/workflow_templates")
    assert "Text to image" in templates["comfyui-lumina-mgpt2"]


@pytest.mark.parametrize("name", NODES)
def test_every_node_has_a_help_page(server, name):
    page = server.get_bytes(f"/extensions/comfyui-lumina-mgpt2/docs/LuminaMGPT2_{name}.md").decode()
    assert page.startswith("# ")


def test_draws_a_picture_with_progress_and_previews(server):
    server.free()
    run = server.run(text_to_image(seed=1, decoder="ar"))
    assert run.succeeded, run.error
    assert {MODEL, MOVQGAN, PROMPT, SAMPLER, DECODE, SAVE, REPORT, MAP} == set(run.executed)
    sampled = [value for node, value, _ in run.progress if node == SAMPLER]
    assert sampled == sorted(sampled) and len(sampled) > 3 and sampled[-1] == 144
    assert server.pictures(run, SAVE)[0].size == (96, 96)
    assert "forwards" in run.outputs[REPORT]["text"][0]


def test_gumbel_and_ar_draw_the_same_picture_with_an_int8_cache(server):
    runs = [server.run(text_to_image(seed=8, decoder=decoder, kv_cache="int8")) for decoder in ("gumbel", "ar")]
    assert all(run.succeeded for run in runs)
    assert all("int8 cache" in run.outputs[REPORT]["text"][0] for run in runs)
    first, second = (server.pictures(run, SAVE)[0].tobytes() for run in runs)
    assert first == second


def test_every_cut_to_one_code_draws_the_greedy_picture(server):
    cases = {"top_k": 1}, {"top_p": 0.001}, {"min_p": 1.0, "decoder": "coupled"}, {}
    runs = [server.run(text_to_image(seed=9, temperature=3.0, **case)) for case in cases]
    pictures = [server.pictures(run, SAVE)[0].tobytes() for run in runs]
    assert pictures[0] == pictures[1] == pictures[2] != pictures[3]


def test_a_negative_prompt_draws_another_picture_and_an_empty_one_the_same(server):
    workflows = [text_to_image("a circle", seed=3, temperature=3.0) for _ in range(3)]
    workflows[1][PROMPT]["inputs"]["negative"] = " "
    workflows[2][PROMPT]["inputs"]["negative"] = "a red circle"
    plain, empty, negative = (server.pictures(server.run(each), SAVE)[0].tobytes() for each in workflows)
    assert plain == empty != negative


def test_a_draft_tree_draws_the_picture_of_ar_in_fewer_forwards(server):
    cases = {"decoder": "ar"}, {"window": 8, "tree": "0"}, {"window": 8, "tree": "16"}
    runs = [server.run(text_to_image(seed=9, cfg=1.0, temperature=3.0, **case)) for case in cases]
    assert len({server.pictures(run, SAVE)[0].tobytes() for run in runs}) == 1
    reports = [run.outputs[REPORT]["text"][0] for run in runs]
    assert "window 8, tree 16" in reports[2] and "tree" not in reports[1]
    forwards = [int(report.split(" forwards")[0].split()[-1]) for report in reports]
    assert forwards[0] > forwards[1] > forwards[2]


def test_previews_grow_by_rows(server):
    # On white, since grey marks rows that are still to be drawn.
    prompt = "a red circle on a white background"
    previews = server.run(text_to_image(prompt, seed=2, decoder="ar")).previews
    assert len(previews) > 1
    grey = [np.abs(np.asarray(picture).astype(int) - 128).max(axis=(1, 2)) < 24 for picture in previews]
    heights = [96 - int(rows[::-1].argmin()) if not rows.all() else 0 for rows in grey]
    assert heights == sorted(heights) and heights[0] < heights[-1]


def test_the_same_inputs_run_nothing_again(server):
    server.run(text_to_image(seed=3))
    again = server.run(text_to_image(seed=3))
    assert again.succeeded and again.executed == []


def test_another_seed_does_not_load_again(server):
    server.run(text_to_image(seed=4))
    other = server.run(text_to_image(seed=5))
    assert other.succeeded and SAMPLER in other.executed
    assert {MODEL, MOVQGAN, PROMPT} <= set(other.cached) and not {MODEL, MOVQGAN} & set(other.executed)


def test_cancel_then_run_again(server):
    cancelled = server.run(text_to_image(seed=6, decoder="ar"), cancel_at=2)
    assert cancelled.interrupted and len(cancelled.progress) < 12
    assert server.run(text_to_image(seed=6)).succeeded


def test_free_memory_then_run_again(server):
    first = server.run(text_to_image(seed=7))
    server.free()
    second = server.run(text_to_image(seed=7))
    assert second.succeeded and MODEL in second.executed
    assert server.pictures(first, SAVE)[0].tobytes() == server.pictures(second, SAVE)[0].tobytes()
