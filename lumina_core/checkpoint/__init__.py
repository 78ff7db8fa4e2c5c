"""The files of a checkpoint: config, tensors, tokenizer texts."""
