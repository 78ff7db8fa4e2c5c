"""SBER-MoVQGAN, the picture tokeniser."""
