"""The extension: lists the nodes for ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from . import folders
from .best_of import BestOfN
from .canvas import ContinuePicture, SplitPanels, StitchPanels
from .codec import MoVQGANDecode, MoVQGANEncode
from .inpaint import InpaintPicture
from .loaders import LoadModel, LoadMoVQGAN
from .lora import LoadLoRA
from .prompt import TaskPrompt
from .sampler import SJDSampler
from .saver import SaveCheckpoint
from .thinking import ThinkingAnswer, ThinkingInstruction


class LuminaMGPT2Extension(ComfyExtension):
    """The nodes of this pack."""

    async def on_load(self) -> None:
        folders.register_model_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadModel,
            LoadMoVQGAN,
            TaskPrompt,
            StitchPanels,
            ContinuePicture,
            InpaintPicture,
            SJDSampler,
            SplitPanels,
            MoVQGANDecode,
            MoVQGANEncode,
            BestOfN,
            ThinkingInstruction,
            ThinkingAnswer,
            SaveCheckpoint,
            LoadLoRA,
        ]
