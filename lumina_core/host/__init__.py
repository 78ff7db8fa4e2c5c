"""The memory of this computer, by the standard library alone."""
