"""Training of LoRAs (arXiv 2106.09685) for a checkpoint: python -m training.lora --help"""
