"""Files of a user: what their bytes are, JSON in them, and writing them whole or not at all."""
