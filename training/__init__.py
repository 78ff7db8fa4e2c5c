"""Training of the embedded demo checkpoint: its world of pictures, tokenizers and transformer."""
