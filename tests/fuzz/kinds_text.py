"""Random changes of config.json, of all JSON files, and of files of tokens."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.core.checkpoints import CODES, CONFIG, FIRST_CODE

from .attempts import Expected, either, refused, same_or_refused, unchanged
from .cases_commands import good_decode
from .cases_config import ARITHMETIC, HARMLESS
from .mutation import Mutation, any_command, mangle
from .place import Place

VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "2", "\ud800", "ä" * 3000, -1, 0, 1, 2, 3, 7, 16, 32, 64, 448, 1024, 10**6, 10**18),
    *(2**31, 2**63, 2**64, 10**400, 0.5, 1.5, 1e-300, 1e308, -0.0, float("nan"), float("inf"), [], [1], [[32, 32]]),
    *([[33, 32]], {}, {"a": 1}, {"type": "linear"}, [[]], [None]),
)
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "su", "mrope", "", None, 1)
# Every value of these that is in range is right, and draws another picture.
FREE = {"rope_theta", "rms_norm_eps", "swin_norm", "image_token_offset"}
OPTIONAL = ("num_key_value_heads", "head_dim", "model_parallel_size", "torch_dtype", "architectures", "model_type")
KEYS = (*CONFIG, *FREE, *OPTIONAL)


# The new values, what may come of them where that is known, and the values that must draw the same.
Changed = tuple[dict[str, Any], Expected | None, dict[str, Any]]


def mutate_config(place: Place, random: Random) -> Mutation:
    """1 to 3 keys of config.json get other values, among them keys that change the arithmetic."""
    ways = (_some_values, _some_values, _some_values, _rope, _arithmetic, _harmless, _removed, _codec_named)
    way = random.choice(ways)
    values, expected, equal = way(random)
    place.change_config(**values)
    arguments = any_command(place, random)
    expected = expected or same_or_refused(reference=unchanged(arguments, **equal))
    return Mutation(f"config {_short(values)}", arguments, expected)


def _some_values(random: Random) -> Changed:
    values = {random.choice(KEYS): random.choice(VALUES) for _ in range(random.randint(1, 3))}
    return values, either() if values.keys() & FREE else None, {}


def _rope(random: Random) -> Changed:
    """A theta within, of a type without scaling; others are refused."""
    key, kind = random.choice(["rope_parameters", "rope_scaling"]), random.choice(ROPE_TYPES)
    theta = random.choice([10_000.0, 50_000.0, 500_000, 1e6])
    inner = {random.choice(["rope_type", "type"]): kind, "rope_theta": theta, "factor": random.choice([1.0, 2.0, 8])}
    is_plain = kind in ("default", None) or (kind == "linear" and inner["factor"] == 1)
    return {key: inner}, None if is_plain else refused("rope"), {"rope_theta": theta}


def _arithmetic(random: Random) -> Changed:
    key, value = random.choice(ARITHMETIC)
    return {key: value}, refused(key), {}


def _harmless(random: Random) -> Changed:
    return dict(random.sample(HARMLESS, 3)), None, {}


def _codec_named(random: Random) -> Changed:
    """Something that is no codec, or one of other channels."""
    value = random.choice(
        [*VALUES[1:], {"channels": random.choice(VALUES)}, {"channels": 64}, {"channels": 32, "multipliers": 1}]
    )
    return {"image_codec": value}, refused(), {}


def _removed(random: Random) -> Changed:
    return {random.choice(list(CONFIG)): ...}, None, {}


# The texts of all JSON files

TEXTS = ("config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json")
NEW_TEXTS = ("added_tokens.json", "special_tokens_map.json", "generation_config.json")


def mutate_texts(place: Place, random: Random) -> Mutation:
    """One JSON file is changed in its bytes."""
    name = random.choice([*TEXTS, *NEW_TEXTS])
    file = place.checkpoint / name
    if name in NEW_TEXTS:
        file.write_text('{"<extra>": 447}' if name == "added_tokens.json" else '{"eos_token": "<|endoftext|>"}')
    good = file.read_bytes()
    way = random.choice([mangle, mangle, mangle, _encoded, _entry, _deep, _tail])
    content, what = way(good, random)
    file.write_bytes(content)
    arguments = any_command(place, random)
    is_free = name in ("tokenizer.json", *NEW_TEXTS) or _free_change(name, good, content)
    expected = either() if is_free and way is mangle else same_or_refused(reference=unchanged(arguments))
    return Mutation(f"{name}: {what}", arguments, expected)


def _free_change(name: str, good: bytes, content: bytes) -> bool:
    """Whether a config holds another value that is as right as the good one."""
    try:
        before, after = json.loads(good), json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    return name == "config.json" and isinstance(after, dict) and any(before.get(k) != after.get(k) for k in FREE)


def _encoded(content: bytes, random: Random) -> tuple[bytes, str]:
    encoding = random.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-16-be"])
    return content.decode().encode(encoding), f"in {encoding}"


def _entry(content: bytes, random: Random) -> tuple[bytes, str]:
    """One more entry at the end."""
    value = random.choice(
        ["1e400", "-1e400", "NaN", "Infinity", '"\\ud800"', "9" * 5000, '"\\u0000"', "01", "1.", "{}"]
    )
    return content.rstrip()[:-1] + f', "other": {value}}}'.encode(), f"with the entry {value[:20]}"


def _deep(content: bytes, random: Random) -> tuple[bytes, str]:
    depth = random.choice([500, 5000, 100_000])
    begin, end = random.choice([("[", "]"), ('{"a":', "1}" if depth == 1 else "}")])
    nested = (begin * depth + ("1" if begin != "[" else "") + end * depth).encode()
    return content.rstrip()[:-1] + b', "other": ' + nested + b"}", f"nested {depth} deep"


def _tail(content: bytes, random: Random) -> tuple[bytes, str]:
    tail = random.choice([b"\0", b"\n\n  \n", b"}", b"{}", b"\xff", b"\x1a", b"// end", b"\0" * 5000])
    return content + tail, f"followed by {tail[:8]!r}"


# Tokens

TOKENS: tuple[Any, ...] = (
    *(None, True, "400", "x", -1, 0, 1, 290, 300, 383, 384, 400, 447, 448, 2**31, 2**63, 10**30, 10**400, 384.0, 400.5),
    *(float("nan"), float("inf"), [], [400], {}, {"a": 1}, "\ud800"),
)


def mutate_tokens(place: Place, random: Random) -> Mutation:
    """One token of a picture is changed, or the file in its bytes."""
    way = random.choice([_changed_token, _changed_token, _changed_length, _changed_file])
    content, what, expected = way(place.good_tokens(), random)
    return Mutation(what, place.decode(place.tokens(lambda _: content)), expected)


def _changed_token(tokens: list[int], random: Random) -> tuple[object, str, Expected]:
    position, value = random.randrange(len(tokens)), random.choice(TOKENS)
    good, changed = tokens[position], [*tokens[:position], value, *tokens[position + 1 :]]
    is_code = (
        FIRST_CODE <= good < FIRST_CODE + CODES and type(value) is int and FIRST_CODE <= value < FIRST_CODE + CODES
    )
    what = f"token {position} is {_short(value)}"
    if value == good or is_code:
        return {"tokens": [changed]}, what, either()
    return {"tokens": [changed]}, what, either() if type(value) is float and value.is_integer() else refused()


def _changed_length(tokens: list[int], random: Random) -> tuple[object, str, Expected]:
    start, count = random.randrange(len(tokens)), random.randint(1, 5)
    if random.random() < 0.5:
        is_begun = start + count >= len(tokens)  # as a cancelled run leaves it
        fewer = [*tokens[:start], *tokens[start + count :]]
        return {"tokens": [fewer]}, f"{count} fewer from {start}", either() if is_begun else refused()
    return {"tokens": [tokens, tokens[:start] + [400] * count + tokens[start:]]}, f"{count} more at {start}", refused()


def _changed_file(tokens: list[int], random: Random) -> tuple[object, str, Expected]:
    content = json.dumps({"tokens": [tokens]}).encode()
    way = random.choice([mangle, _encoded, _entry, _deep, _tail])
    changed, what = way(content, random)
    return changed, what, either() if way is mangle else same_or_refused(reference=good_decode)


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else f"10^{len(str(value)) - 1}"
    return text[:90].encode("ascii", "backslashreplace").decode()
