"""The transformer, its key/value cache, and loading."""
