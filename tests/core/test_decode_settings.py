"""Settings out of range are refused with what came and what was expected."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lumina_core.decoding.settings import DECODERS, MAX_SEED, MAX_WINDOW, NEW_DRAFTS, DecodeSettings
from lumina_core.errors import InputError
from lumina_core.kernels.kv_tensor import KV_CACHES

BAD = [
    *(("cfg_scale", value, "cfg") for value in (-0.1, 100.5, math.nan, math.inf, "4", None, True)),
    *(("temperature", value, "temperature") for value in (0, 0.0, -1.0, 101, math.nan, "1", False)),
    *(("top_k", value, "top_k") for value in (0, -1, 2.0, 2**31 + 1, "9", True)),
    *(("top_p", value, "top_p") for value in (0, -0.1, 1.01, math.nan, "0.9", None, True)),
    *(("min_p", value, "min_p") for value in (-0.1, 1.01, math.inf, "0.1", None, False)),
    *(("seed", value, "seed") for value in (-1, MAX_SEED + 1, 1.0, None, True)),
    *(("window_size", value, "window") for value in (0, -1, MAX_WINDOW + 1, 8.0, "8", True)),
    *(("decoder", value, "decoder") for value in ("beam", "", "AR", None)),
    *(("new_drafts", value, "new_drafts") for value in ("below", "", None)),
    *(("kv_cache", value, "kv_cache") for value in ("int2", "", None)),
]
GOOD = [
    {"cfg_scale": 0},
    {"cfg_scale": 100.0, "temperature": 0.001, "top_k": 1, "seed": MAX_SEED, "window_size": MAX_WINDOW},
    {"temperature": 100, "top_k": 2**31, "seed": 0, "window_size": 1},
    {"top_p": 1e-9, "min_p": 1},
    {"top_p": 1, "min_p": 0},
    *({"decoder": decoder} for decoder in DECODERS),
    *({"new_drafts": way} for way in NEW_DRAFTS),
    *({"kv_cache": kv_cache} for kv_cache in KV_CACHES),
]


@pytest.mark.parametrize(("field", "value", "name"), BAD)
def test_bad_values_are_named(field: str, value: Any, name: str) -> None:
    with pytest.raises(InputError) as caught:
        DecodeSettings(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{name} is {value!r}; expected ") and "\n" not in message


@pytest.mark.parametrize("values", GOOD)
def test_the_ends_of_every_range_are_legal(values: dict[str, Any]) -> None:
    DecodeSettings(**values)


def test_the_defaults_are_the_published_ones_and_gumbel() -> None:
    settings = DecodeSettings()
    assert (settings.cfg_scale, settings.top_k, settings.temperature) == (4.0, 4096, 1.0)
    assert (settings.top_p, settings.min_p) == (1.0, 0.0) and not settings.sampling(9).cuts_by_probability
    assert settings.decoder == DECODERS[0] == "gumbel"


def test_guidance_is_off_at_cfg_1_alone() -> None:
    assert [DecodeSettings(cfg_scale=scale).guided for scale in (0, 0.5, 1, 1.0, 1.5)] == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_ar_runs_one_token_whatever_the_window() -> None:
    assert [DecodeSettings(decoder=decoder, window_size=9).width for decoder in DECODERS] == [9, 1, 9, 9]
