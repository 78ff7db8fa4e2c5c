"""SBER-MoVQGAN, the picture tokeniser."""

from .autoencoder import MoVQGAN
from .config import MoVQGANConfig, infer_config
from .load import load_movqgan

__all__ = ["MoVQGAN", "MoVQGANConfig", "infer_config", "load_movqgan"]
