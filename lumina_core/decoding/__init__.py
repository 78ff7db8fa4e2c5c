"""Decoding: from a request to a grid of codes, one or several tokens a forward."""
