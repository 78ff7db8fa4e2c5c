"""The engine of Lumina-mGPT 2.0: transformer, MoVQGAN, tokenizer, decoding. Knows nothing of ComfyUI."""

from .model.load import load_transformer
from .model.transformer import Transformer
from .movqgan.autoencoder import MoVQGAN
from .movqgan.load import load_movqgan
from .tokens.tokenizer import Tokenizer, load_tokenizer

__all__ = ["MoVQGAN", "Tokenizer", "Transformer", "load_movqgan", "load_tokenizer", "load_transformer"]
