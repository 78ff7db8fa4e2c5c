"""SBER-MoVQGAN, the image tokenizer."""
