"""Names and shapes of a published checkpoint's tensors, and the names of those that a quantised weight is stored as."""

from .config import TransformerConfig
from .tensor_files import Shape

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
UNUSED_PREFIX = "model.vqmodel."
BLOCK_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def published_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Names and shapes of a published checkpoint's tensors, without the unused `model.vqmodel.*`."""
    hidden, mlp, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim
    norm = (config.model_parallel_size, dim)
    layer: dict[str, Shape] = {
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.v_proj.weight": (key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        **{f"self_attn.{part}_norm.{kind}": norm for part in "qk" for kind in ("weight", "bias")},
        "mlp.gate_proj.weight": (mlp, hidden),
        "mlp.up_proj.weight": (mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    shapes: dict[str, Shape] = {EMBEDDING: (config.vocab_size, hidden)}
    for index in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes | {NORM: (hidden,), HEAD: (config.vocab_size, hidden)}


def is_block_linear(name: str) -> bool:
    """Whether a published tensor is the weight of a block's linear layer, which can be quantised."""
    return name.split(".")[-2] in BLOCK_LINEARS


def packed_name(name: str, key: str) -> str:
    """The name of the packed tensor `key` of a quantised weight `name`."""
    return f"{name.removesuffix('weight')}{key}"
