"""SBER-MoVQGAN, the picture tokeniser."""

from .autoencoder import MoVQGAN
from .config import STRIP_ROWS, MoVQGANConfig, infer_config
from .load import load_movqgan

__all__ = ["STRIP_ROWS", "MoVQGAN", "MoVQGANConfig", "infer_config", "load_movqgan"]
