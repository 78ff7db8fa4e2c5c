"""How the embedded demo checkpoint is made: its world of pictures, its tokenizers and its transformer."""
