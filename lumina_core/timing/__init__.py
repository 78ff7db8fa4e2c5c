"""The time of a decoding step, and models of random weights to measure it on."""
