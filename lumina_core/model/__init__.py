"""The transformer and its key/value cache."""

from .compile import COMPILE, set_compile
from .kv_cache import AttentionPlan, KVCache
from .kv_store import KV_CACHES
from .load import load_transformer
from .make_cache import new_cache
from .transformer import Transformer

__all__ = [
    "COMPILE",
    "KV_CACHES",
    "AttentionPlan",
    "KVCache",
    "Transformer",
    "load_transformer",
    "new_cache",
    "set_compile",
]
