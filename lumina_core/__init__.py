"""The engine of Lumina-mGPT 2.0: transformer, MoVQGAN, tokenizer, decoding. Knows nothing of ComfyUI."""

from .model import Transformer, load_transformer
from .movqgan import MoVQGAN, load_movqgan
from .tokenizer import Tokenizer, load_tokenizer

__all__ = ["MoVQGAN", "Tokenizer", "Transformer", "load_movqgan", "load_tokenizer", "load_transformer"]
