"""Progress of the node that runs: ComfyUI's bar, a text on the node, a bar in the log, and previews of a run."""

from __future__ import annotations

import logging

import comfy.utils
from comfy.cli_args import args
from PIL import Image

from ..lumina_core.checkpoint.find import Checkpoint
from ..lumina_core.decoding.request import Request
from ..lumina_core.decoding.settings import DecodeResult, StepReport
from ..lumina_core.quant.weights import WeightsPlan
from ..lumina_core.timing import progress as core
from ..lumina_core.timing.amounts import Amounts, Count, loading
from ..lumina_core.timing.log_bar import LogBar
from . import comfy_adapter as comfy_ui
from .preview import GrowingPreview
from .vae import MoVQGANVae

logger = logging.getLogger(__name__)

# Steps of ComfyUI's bar where amounts are shares.
SHARE_STEPS = 1000


class Progress(core.Progress):
    """ComfyUI's progress bar of the current node, and how far and how long on the node and in the log.

    Updates and warm-ups raise ComfyUI's exception if the user cancelled.
    """

    def __init__(self, amounts: Amounts, title: str = "", steps: int | None = None):
        log_bar = LogBar(amounts.total) if comfy.utils.PROGRESS_BAR_ENABLED else None
        show, check = comfy_ui.show_text, comfy_ui.check_interrupted
        super().__init__(amounts, title, bar=log_bar, show=show, say=logger.info, check=check)
        self._node_bar = comfy.utils.ProgressBar(int(amounts.total) if steps is None else steps)
        self._step = -1

    def update(
        self, done: float | None = None, warm_up_seconds: float | None = None, preview: Image.Image | None = None
    ) -> None:
        """Shows a preview too."""
        super().update(done, warm_up_seconds)
        picture = None if preview is None else ("JPEG", preview, args.preview_size)
        self._node_bar.update_absolute(int(self.done), preview=picture)

    def update_share(self, done: float, total: float) -> None:
        """Shows `done` of `total`, whatever they count. It may be called a hundred times a second."""
        comfy_ui.check_interrupted()
        share = done / max(total, 1)
        super().update(self.amounts.total * share)
        if (step := int(self._node_bar.total * share)) != self._step:
            self._step = step
            self._node_bar.update_absolute(step)


def loading_progress(checkpoint: Checkpoint, plan: WeightsPlan) -> Progress:
    """The progress of loading a checkpoint for weights as planned; `update_share` is its `on_progress`."""
    title, amounts = loading(checkpoint, plan)
    return Progress(amounts, title, SHARE_STEPS)


class Watcher(Progress):
    """Progress and preview of a run. `on_step` is called after each forward on a CPU, after every few on a GPU."""

    def __init__(self, movqgan: MoVQGANVae, request: Request):
        super().__init__(Count(request.codes_to_draw, "tokens"))
        wanted = comfy_ui.preview_wanted()
        self._preview = GrowingPreview(movqgan, request.grid_h, request.grid_w) if wanted else None
        self._drawn_of_first = int(request.drawn[0].sum())
        self.last_report: StepReport | None = None

    def on_step(self, report: StepReport) -> None:
        """Updates progress and preview."""
        self.last_report = report
        picture = None
        if self._preview is not None:
            picture = self._preview.draw(report.codes[:1], self._final_rows(report))
        self.update(sum(report.accepted), report.warm_up_seconds, picture)

    def _final_rows(self, report: StepReport) -> int:
        """The complete rows of the first picture: all once it is drawn, where a mask gives those that follow."""
        grid_h, grid_w = report.codes.shape[1:]
        return grid_h if report.accepted[0] >= self._drawn_of_first else report.reached[0] // grid_w

    def on_result(self, result: DecodeResult) -> None:
        """Shows how long the run took."""
        self.finish(result.seconds, result.warm_up_seconds)
