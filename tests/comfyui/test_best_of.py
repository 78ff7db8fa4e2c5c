"""Best of N after the sampler: ranking by likelihood and by scores of other nodes, and inputs that do not match."""

from __future__ import annotations

import re

import numpy as np
import pytest
from workflows import DECODE, MOVQGAN, REPORT, SAMPLER, SAVE, node, text_to_image

BEST, BEST_SAVE, LATENT_SAVE, SHEET, SCORES, INDEX, LIST = "20", "21", "22", "23", "24", "25", "30"
BATCH = 4
WEIGHTS = {"likelihood_weight": 1.0, "weight_1": 1.0, "weight_2": 1.0, "weight_3": 1.0}


def best_of(seed: int = 40, **inputs) -> dict:
    """A batch of four, Best of N and all its outputs. `inputs` are those of Best of N; None removes one."""
    given = {"images": [DECODE, 0], "latent": [SAMPLER, 0], "keep": 1, **WEIGHTS, **inputs}
    given = {name: value for name, value in given.items() if value is not None}
    workflow = text_to_image(seed=seed, batch_size=BATCH) | {
        BEST: node("LuminaMGPT2_BestOfN", **given),
        BEST_SAVE: node("SaveImage", images=[BEST, 0], filename_prefix="best"),
        SHEET: node("SaveImage", images=[BEST, 2], filename_prefix="sheet"),
        SCORES: node("PreviewAny", source=[BEST, 3]),
        INDEX: node("PreviewAny", source=[BEST, 4]),
    }
    if "latent" in given:
        workflow["26"] = node("VAEDecode", samples=[BEST, 1], vae=[MOVQGAN, 0])
        workflow[LATENT_SAVE] = node("SaveImage", images=["26", 0], filename_prefix="best_latent")
    return workflow


def numbers(server, workflow: dict, values: list, name: str = LIST) -> list:
    """A link to a list of floats from core nodes."""
    if "CreateList" not in server.get("/object_info"):
        pytest.skip("this ComfyUI has no core node that makes a list of single numbers")
    for index, value in enumerate(values):
        workflow[f"{name}{index}"] = node("PrimitiveFloat", value=value)
    links = {f"inputs.input{index}": [f"{name}{index}", 0] for index in range(len(values))}
    workflow[name] = node("CreateList", **links)
    return [name, 0]


def arrays(server, run, name: str) -> list[np.ndarray]:
    return [np.asarray(picture) for picture in server.pictures(run, name)]


def likelihoods(run) -> list[float]:
    """The log-likelihoods in the sampler's report."""
    (line,) = re.findall(r"nats per code: (.*)", run.outputs[REPORT]["text"][0])
    return [float(number) for number in line.split(", ")]


def refusal(server, workflow: dict) -> str:
    run = server.run(workflow)
    assert run.error is not None and run.error["node_id"] == BEST, run.error
    return run.error["exception_message"]


def test_the_likeliest_picture_is_the_best(server):
    run = server.run(best_of())
    assert run.succeeded, run.error
    nats, batch = likelihoods(run), arrays(server, run, SAVE)
    best = int(np.argmax(nats))
    assert len(set(nats)) == BATCH and all(-10 < one < 0 for one in nats)
    assert int(run.outputs[INDEX]["text"][0]) == best
    for name in (BEST_SAVE, LATENT_SAVE):
        (picture,) = arrays(server, run, name)
        assert np.array_equal(picture, batch[best]), name
    header, *lines = run.outputs[SCORES]["text"][0].splitlines()
    assert "likelihood (weight 1)" in header and "scores_1" not in header
    assert [int(line.split()[1]) for line in lines] == np.argsort(nats)[::-1].tolist()


def test_the_likelihood_is_the_same_alone_and_with_every_decoder(server):
    together = likelihoods(server.run(text_to_image(seed=50, batch_size=BATCH)))
    for decoder, window in (("ar", 1), ("gumbel", 7)):
        alone = likelihoods(server.run(text_to_image(seed=52, decoder=decoder, window=window)))
        assert alone == pytest.approx(together[2:3], abs=2e-3)


def test_several_pictures_are_kept_in_order_and_framed_on_the_sheet(server):
    run = server.run(best_of(keep=3))
    batch, order = arrays(server, run, SAVE), np.argsort(likelihoods(run))[::-1]
    for name in (BEST_SAVE, LATENT_SAVE):
        kept = arrays(server, run, name)
        assert len(kept) == 3
        assert all(np.array_equal(picture, batch[index]) for picture, index in zip(kept, order, strict=False))
    (sheet,) = arrays(server, run, SHEET)
    assert min(sheet.shape[:2]) > 2 * 192
    first = sheet[12 : 12 + 192 : 2, 12 : 12 + 192 : 2].astype(int)
    assert abs(first - batch[order[0]]).max() <= 1


def test_keeping_more_than_the_batch_keeps_all(server):
    assert len(server.pictures(server.run(best_of(keep=64)), BEST_SAVE)) == BATCH


def test_scores_of_other_nodes_set_the_order(server):
    for scores, weights, best in (
        ([0.1, 0.4, 0.3, 0.2], {"likelihood_weight": 0.0}, 1),
        ([0.1, 0.4, 0.3, 0.2], {"likelihood_weight": 0.0, "weight_1": -1.0}, 0),
        ([0.0, 0.0, 0.0, 1e-9], {"likelihood_weight": 0.1, "weight_1": 10.0}, 3),
    ):
        workflow = best_of(**weights)
        workflow[BEST]["inputs"]["scores_1"] = numbers(server, workflow, scores)
        run = server.run(workflow)
        assert run.succeeded, run.error
        assert int(run.outputs[INDEX]["text"][0]) == best


def test_a_node_that_runs_once_per_picture_supplies_the_scores(server):
    """Rebatch Images makes a list of the batch. The scores are all equal, so the likelihood sets the order."""
    workflow = best_of() | {
        "40": node("RebatchImages", images=[DECODE, 0], batch_size=1),
        "41": node("GetImageSize", image=["40", 0]),
        "42": node("ComfyMathExpression", expression="a / 2", **{"values.a": ["41", 0]}),
    }
    if not {"ComfyMathExpression", "GetImageSize"} <= set(server.get("/object_info")):
        pytest.skip("this ComfyUI has no core nodes that make a float of a picture")
    workflow[BEST]["inputs"]["scores_2"] = ["42", 0]
    run = server.run(workflow)
    assert run.succeeded, run.error
    assert run.outputs[SCORES]["text"][0].splitlines()[1].split()[-1] == "48"
    assert int(run.outputs[INDEX]["text"][0]) == int(np.argmax(likelihoods(run)))


def test_lists_of_batches_are_joined(server):
    workflow = best_of()
    if "CreateList" not in server.get("/object_info"):
        pytest.skip("this ComfyUI has no core node that makes lists")
    for name, link in (("50", [DECODE, 0]), ("51", [SAMPLER, 0])):
        workflow[name] = node("CreateList", **{"inputs.input0": link, "inputs.input1": link})
    workflow[BEST]["inputs"] |= {"images": ["50", 0], "latent": ["51", 0], "keep": 8}
    run = server.run(workflow)
    assert run.succeeded, run.error
    assert len(server.pictures(run, BEST_SAVE)) == len(server.pictures(run, LATENT_SAVE)) == 2 * BATCH


def test_without_a_latent_scores_set_the_order_and_best_latent_is_an_error(server):
    workflow = best_of(latent=None)
    workflow[BEST]["inputs"]["scores_3"] = numbers(server, workflow, [1.0, 2.0, 4.0, 3.0])
    run = server.run(workflow)
    assert run.succeeded, run.error
    assert int(run.outputs[INDEX]["text"][0]) == 2
    workflow["27"] = node("VAEDecode", samples=[BEST, 1], vae=[MOVQGAN, 0])
    workflow["28"] = node("PreviewImage", images=["27", 0])
    run = server.run(workflow)
    assert run.error is not None and "connect the sampler's latent" in run.error["exception_message"]


def test_a_wrong_number_of_scores_is_an_error(server):
    workflow = best_of()
    workflow[BEST]["inputs"]["scores_1"] = numbers(server, workflow, [1.0, 2.0, 3.0])
    assert "scores_1 holds 3 scores; expected 4" in refusal(server, workflow)
    workflow = best_of()
    workflow["30"] = node("PrimitiveFloat", value=1.0)
    workflow[BEST]["inputs"]["scores_1"] = ["30", 0]
    assert "scores_1 holds 1 scores; expected 4" in refusal(server, workflow)


def test_a_score_that_is_not_finite_is_an_error(server):
    workflow = best_of()
    workflow[BEST]["inputs"]["scores_2"] = numbers(server, workflow, [1.0, float("nan"), 3.0, 4.0])
    assert "scores_2 holds nan for picture 1" in refusal(server, workflow)


def test_no_score_is_an_error(server):
    assert "no score to choose by" in refusal(server, best_of(latent=None))
    assert "no score to choose by" in refusal(server, best_of(likelihood_weight=0.0))


def test_a_latent_without_likelihood_does_not_affect_the_order(server):
    workflow = best_of(latent=["60", 0])
    workflow["60"] = node("VAEEncode", pixels=[DECODE, 0], vae=[MOVQGAN, 0])
    assert "no score to choose by" in refusal(server, workflow)
    workflow[BEST]["inputs"]["scores_1"] = numbers(server, workflow, [1.0, 2.0, 4.0, 3.0])
    run = server.run(workflow)
    assert run.succeeded, run.error
    assert "likelihood" not in run.outputs[SCORES]["text"][0]


def test_a_latent_of_other_pictures_is_an_error(server):
    workflow = best_of(latent=["60", 0])
    workflow["60"] = node("LatentFromBatch", samples=[SAMPLER, 0], batch_index=0, length=2)
    assert "latent holds 2 pictures, the images are 4" in refusal(server, workflow)


def test_a_cut_batch_has_no_likelihood(server):
    workflow = best_of(latent=["60", 0], images=["61", 0])
    workflow["60"] = node("LatentFromBatch", samples=[SAMPLER, 0], batch_index=1, length=2)
    workflow["61"] = node("VAEDecode", samples=["60", 0], vae=[MOVQGAN, 0])
    assert "no score to choose by" in refusal(server, workflow)
