"""Best of N."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lumina_core.errors import InputError
from ..lumina_core.pictures.best_of import Ranking, Verifier, flat_scores, rank_pictures
from ..lumina_core.pictures.contact_sheet import contact_sheet
from ..lumina_core.pictures.images import to_rgb
from . import comfy_adapter as comfy_ui
from .latents import join_latents, likelihoods_of, pick_pictures
from .node import LuminaNode
from .pictures import from_pictures, to_pictures
from .types import CATEGORY

VERIFIERS = ("1", "2", "3")
NO_LATENT = "Best of N has no latent to output: connect the sampler's latent to it"


def join_images(images: Sequence[Tensor]) -> Tensor:
    """Several batches as one [B,H,W,C]. Raises InputError when they differ in size."""
    sizes = sorted({f"{image.shape[2]}x{image.shape[1]}" for image in images})
    if len({image.shape[1:] for image in images}) > 1:
        raise InputError(f"the pictures have sizes {', '.join(sizes)}; expected one size and one number of channels")
    return torch.cat(list(images))


def verifiers_of(latent: dict | None, likelihood_weight: float, given: dict[str, tuple[list, float]]) -> list[Verifier]:
    """The verifiers: the latent's likelihoods, if it holds any, and the `given` scores and weights by name."""
    likelihoods = likelihoods_of(latent) if latent else None
    own = [Verifier("likelihood", likelihoods, likelihood_weight)] if likelihoods else []
    return own + [Verifier(name, flat_scores(name, scores), weight) for name, (scores, weight) in given.items()]


def draw_sheet(images: Tensor, ranking: Ranking, keep: int) -> Tensor:
    """The contact sheet [1,H,W,3] of all pictures, the best first, the first `keep` framed."""
    pictures = [to_rgb(picture) for picture in to_pictures(images)]
    ordered = [pictures[index] for index in ranking.order]
    return from_pictures([contact_sheet(ordered, list(map(ranking.caption, ranking.order)), range(keep))])


def check_latent(latent: dict | None, pictures: int) -> None:
    """Raises InputError for a latent that holds another number of pictures."""
    if latent is not None and len(latent["samples"]) != pictures:
        raise InputError(
            f"the latent holds {len(latent['samples'])} pictures, the images are {pictures}; connect the latent that "
            "the images were decoded from"
        )


def _weight_input(name: str, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=1.0, min=-10.0, max=10.0, step=0.1, round=0.01, tooltip=tooltip)


def _scores_input(number: str) -> io.Float.Input:
    return io.Float.Input(
        f"scores_{number}",
        optional=True,
        force_input=True,
        tooltip="One number per picture: a list, or a node that runs once per picture.",
    )


class BestOfN(LuminaNode):
    """The best pictures of a batch.

    Scores have three fixed inputs instead of a growing one, as each has a weight widget. The node takes lists, so that
    numbers from a node that ran once for each picture arrive together.
    """

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_BestOfN",
            display_name="Best of N",
            category=CATEGORY,
            description="Chooses the best pictures of a batch by the model's likelihood and scores from other nodes. "
            "Scores are combined by rank, so their scales do not matter.",
            search_aliases=["rerank", "rank", "best", "select image", "choose image", "score", "likelihood"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to choose from."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The sampler's latent, for the likelihood and best_latent.",
                ),
                *map(_scores_input, VERIFIERS),
                io.Int.Input("keep", default=1, min=1, max=64, tooltip="Number of pictures to keep, best first."),
                _weight_input(
                    "likelihood_weight", "Weight of the model's likelihood. 0: shown only; below 0: reversed."
                ),
                *(
                    _weight_input(
                        f"weight_{number}", f"Weight of scores_{number}. 0: shown only; below 0: lower is better."
                    )
                    for number in VERIFIERS
                ),
            ],
            outputs=[
                io.Image.Output(display_name="best_images", tooltip="The kept pictures, best first."),
                io.Latent.Output(display_name="best_latent", tooltip="Their latent. Needs the input latent."),
                io.Image.Output(display_name="contact_sheet", tooltip="All pictures, best first; the kept are framed."),
                io.String.Output(display_name="scores", tooltip="A table of all scores and ranks."),
                io.Int.Output(display_name="index", tooltip="Place of the best picture in the batch, from 0."),
            ],
        )

    @classmethod
    def execute(cls, images, keep=(1,), likelihood_weight=(1.0,), latent=None, **scores_and_weights) -> io.NodeOutput:
        pictures, latent = join_images(images), join_latents(latent) if latent else None
        check_latent(latent, len(pictures))
        given = {
            f"scores_{number}": (scores_and_weights[f"scores_{number}"], scores_and_weights[f"weight_{number}"][0])
            for number in VERIFIERS
            if scores_and_weights.get(f"scores_{number}") is not None
        }
        ranking = rank_pictures(verifiers_of(latent, likelihood_weight[0], given), len(pictures))
        kept = ranking.order[: keep[0]]
        return io.NodeOutput(
            pictures[list(kept)],
            pick_pictures(latent, kept) if latent else comfy_ui.nothing(NO_LATENT),
            draw_sheet(pictures, ranking, len(kept)),
            ranking.table(),
            kept[0],
        )
