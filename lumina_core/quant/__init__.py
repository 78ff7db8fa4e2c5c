"""Linear layers with quantised weights, int8 and int4."""
