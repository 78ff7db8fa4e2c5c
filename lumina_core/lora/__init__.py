"""LoRAs: reading their files, and the low-rank branches beside a transformer's linear layers."""
