"""The transformer and its key/value cache."""

from .kv_cache import AttentionPlan, KVCache
from .load import load_transformer
from .transformer import Transformer

__all__ = ["AttentionPlan", "KVCache", "Transformer", "load_transformer"]
