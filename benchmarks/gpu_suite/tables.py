"""The suite's results as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..kernels import Figure
from ..kernels.choice import KernelChoice, agrees, choose_tiles

TOP_KERNELS = 14
Line = dict[str, Any]
TITLES: Mapping[str, str] = MappingProxyType(
    {"kv": "cache", "us": "µs", "beside_weights_bytes": "bytes without weights", "planned_bytes": "estimated bytes"}
)
"""Titles of columns; all others are the key with spaces."""
OTHER_MATMULS = ("torch bf16", "torch int4", "torch fp8")
SWEPT = ("µs in use", "bandwidth in use", "µs best", "bandwidth best", "best tile")


def tables(lines: Sequence[Line]) -> str:
    """Markdown: the outcome of each stage, and a table for each that has figures, with its device and date.

    Of a stage that ran several times, the last run that succeeded counts, or else the last that has figures.
    """
    parts = [_table(map(_outcome, lines), "stage", "status", "seconds", "reason", "begun", "device")]
    for name, (title, table) in TABLES.items():
        runs = sorted((line for line in lines if line["stage"] == name), key=lambda line: line["status"] == "ok")
        for line in reversed(runs):
            if text := table(line["figures"]):
                parts.append(f"### {title}\n\n{_place(line)}\n\n{text}")
                break
    return "\n\n".join(parts)


def _outcome(line: Line) -> Figure:
    begun, reason = line.get("date", "")[:19], line.get("error") or line.get("reason")
    return {**line, "seconds": f"{line.get('seconds', 0):.0f}", "begun": begun, "reason": reason}


def _place(line: Line) -> str:
    """Where and when a stage ran."""
    software = f"torch {line.get('torch', 'unknown')}, Triton {line.get('triton', 'unknown')}"
    place = f"{line.get('device', 'unknown device')}, {line.get('date', 'no date')[:10]}, {software}"
    return f"Dry run at toy sizes, no figures of a GPU: {place}." if line.get("dry_run") else f"{place}."


# Markdown


def _table(figures: Iterable[Figure], *keys: str) -> str:
    """A row for each figure, a column for each key; empty without figures."""
    rows = [[_cell(key, one.get(key)) for key in keys] for one in figures]
    titles = [TITLES.get(key, key.replace("_", " ")) for key in keys]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(keys), *rows)) if rows else ""


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_bytes") and isinstance(value, int | float):
        return f"{value / 1e9:.2f} GB"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _percent(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float) else ""


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _having(figures: Iterable[Figure], *keys: str) -> list[Figure]:
    return [one for one in figures if all(key in one for key in keys)]


# One stage each


def _environment(figures: Sequence[Figure]) -> str:
    return _table(
        [{"rate": one["rate"], "measured": _rate(one)} for one in _having(figures, "rate")], "rate", "measured"
    )


def _rate(one: Figure) -> str:
    if "bytes_per_second" in one:
        return f"{one['bytes_per_second'] / 1e9:,.0f} GB/s, read and written"
    if "flops" in one:
        return f"{one['flops'] / 1e12:,.1f} TFLOP/s at side {one['side']}"
    return f"{one['us']:.1f} µs on the host"


def _build(figures: Sequence[Figure]) -> str:
    total = "".join(
        f"{one['built']} of {one['of']} kernels built in {one['after']:.0f} s."
        for one in _having(figures, "built", "of")[-1:]
    )
    return _paragraphs(total, _table(_having(figures, "variant", "error"), "kernel", "variant", "error"))


def _self_tests(figures: Sequence[Figure]) -> str:
    rows = [{**one, "outcome": one["reason"] or "agrees"} for one in _having(figures, "kernel", "reason")]
    return _paragraphs(_table(rows, "kernel", "variant", "samples", "largest_error", "outcome"), _tests(figures))


def _tests(figures: Sequence[Figure]) -> str:
    rows = [{**one, "reason": one.get("error") or _failures(one)} for one in _having(figures, "tests")]
    return _table(rows, "tests", "passed", "failed", "skipped", "reason")


def _failures(one: Figure) -> str:
    return "; ".join([*(failure["test"] for failure in one.get("failures", [])), *one.get("skipped_for", [])])


def _steps(figures: Sequence[Figure]) -> str:
    """A line for each window and context, captured next to uncaptured."""
    steps = _having(figures, "window", "context", "ms")
    if not steps:
        return ""
    names = [f"{one['weights']} weights: {one['kernel']}" for one in _having(figures, "weights", "kernel")]
    names += [f"{one['kv']} cache: {one['attention']}" for one in _having(figures, "kv", "attention")]
    off = {_setting(one): one for one in steps if one["compile"] == "off"}
    auto = {_setting(one): one for one in steps if one["compile"] != "off"}
    rows = [_step(auto.get(setting, {}), off.get(setting, {})) for setting in sorted({**off, **auto})]
    keys = ("weights", "kv", "context", "window", "tree", "ms", "captured", "ms, compile off", "ceiling_ms", "share")
    source = f"Accepted tokens a step, in brackets, are {steps[0]['accepted_from']}."
    return _paragraphs(f"{'; '.join(dict.fromkeys(names))}.", _table(rows, *keys, "tokens/s"), source)


def _setting(one: Figure) -> tuple[Any, ...]:
    return one["weights"], one["kv"], one["context"], one["window"], one.get("tree", 0)


def _step(auto: Figure, off: Figure) -> Figure:
    best = auto or off
    return {
        **best,
        "ms": auto.get("ms"),
        "captured": auto.get("captured"),
        "ms, compile off": off.get("ms"),
        "share": _percent(best["share"]),
        "tokens/s": f"{best['tokens_per_second']:.0f} ({best['accepted']})",
    }


def _profile(figures: Sequence[Figure]) -> str:
    parts = []
    for total in _having(figures, "step_us"):
        kernels = [one for one in _having(figures, "kernel", "calls") if one["compile"] == total["compile"]]
        parts.append(
            f"compile {total['compile']} ({'captured' if total['captured'] else 'not captured'}), W {total['window']} "
            f"at {total['context']}: {total['step_us']:.0f} µs a step, {total['kernels_us']:.0f} in "
            f"{total['launches']:.0f} launches, {total['between_us']:.0f} between them."
        )
        rows = [{**one, "share": _percent(one["us"] / total["kernels_us"])} for one in kernels[:TOP_KERNELS]]
        parts.append(_table(rows, "kernel", "calls", "us", "share"))
    return _paragraphs(*parts)


def _swept(figures: Sequence[Figure], *keys: str) -> list[Figure]:
    """For each problem, which `keys` identify: the tile in use, and the fastest that agrees with the reference."""
    problems: dict[tuple[Any, ...], list[Figure]] = {}
    for one in _having(figures, "tile", "us", *keys):
        problems.setdefault(tuple(one[key] for key in keys), []).append(one)
    rows = []
    for problem, tiles in problems.items():
        used = next((one for one in tiles if one["in_use"]), {})
        best = min(filter(agrees, tiles), key=lambda one: one["us"], default={})
        times = (value for one in (used, best) for value in (one.get("us"), _percent(one.get("share"))))
        cells = (*problem, *times, _named(best.get("tile", {})))
        rows.append(dict(zip((*keys, *SWEPT), cells, strict=True)))
    return rows


def _matmul(figures: Sequence[Figure]) -> str:
    others = {
        (one["kernel"], one["layer"], one["rows"]): one.get("us")
        for one in _having(figures, "layer")
        if "tile" not in one
    }
    rows = [
        {**one, **{f"µs {name}": others.get((name, one["layer"], one["rows"])) for name in OTHER_MATMULS}}
        for one in _swept(figures, "kernel", "layer", "out", "in", "rows")
    ]
    table = _table(rows, "kernel", "layer", "out", "in", "rows", *SWEPT, *(f"µs {name}" for name in OTHER_MATMULS))
    bandwidths = _having(figures, "copy_bytes_per_second")
    choices = choose_tiles(figures, bandwidths[0]["copy_bytes_per_second"]) if bandwidths else []
    return _paragraphs(table, *map(_choice, choices), _errors(figures))


def _choice(chosen: KernelChoice) -> str:
    """The fastest tiles and splits of a kernel, over all layers together."""
    rows = [
        {"rows": one.rows, "µs of all layers, in use": one.in_use, "µs best": one.best}
        | {f"{name} of a tile": value for name, value in one.tile.items()}
        for one in chosen.rows
    ]
    counts = ", ".join(map(str, chosen.left_out))
    return _paragraphs(
        f"{chosen.kernel}, best splits: {_named(chosen.splits)}." if rows else "",
        _table(rows, *(rows[0] if rows else ())),
        f"{chosen.kernel}: not every layer was timed at {counts} rows, so no tile is chosen there." if counts else "",
    )


def _attention(figures: Sequence[Figure]) -> str:
    keys = ("kv", "window", "context")
    return _paragraphs(_table(_swept(figures, *keys), *keys, *SWEPT), _errors(figures))


def _errors(figures: Sequence[Figure]) -> str:
    """How many settings failed with each error."""
    errors = [f"{one['kernel']}: {one['error']}" for one in _having(figures, "kernel", "error")]
    return _paragraphs(*(f"{errors.count(error)} settings failed: {error}" for error in dict.fromkeys(errors)))


def _captured_steps(figures: Sequence[Figure]) -> str:
    keys = ("dtype", "kernel", "attention", "pictures", "differing_pictures", "codes", "differing_codes", "forwards")
    return _paragraphs(_table(_having(figures, "compared"), *keys, "forwards_of_ar"), _tests(figures))


def _allocators(figures: Sequence[Figure]) -> str:
    rows = [
        {**one, "message": one.get("not_captured_for") or one.get("reason") or one.get("error")}
        for one in _having(figures, "allocator", "ended")
    ]
    names = ("captured", "same", "freed", "same_again", "works", "allocating")
    return _table(rows, "allocator", "kind", "ended", *names, "message")


def _draw(figures: Sequence[Figure]) -> str:
    keys = ("run", "picture", "window", "seconds", "warm_up_seconds", "forwards", "tokens")
    loops = [
        f"The loop took {one['loop_seconds']:.2f} s, its steps alone {one['steps_seconds']:.2f} s "
        f"({one['step_ms']:.2f} ms each): {one['loop_over_steps']:.2f} times."
        for one in _having(figures, "loop_over_steps")
    ]
    runs = _table(
        _having(figures, "run", "seconds"), *keys, "peak_bytes", "reserved_bytes", "planned_bytes", "kept_bytes"
    )
    return _paragraphs(runs, *loops)


def _movqgan(figures: Sequence[Figure]) -> str:
    rows = [{**one, "strip_rows": one["strip_rows"] or "whole"} for one in _having(figures, "picture", "ms")]
    return _table(rows, "picture", "dtype", "channels_last", "strip_rows", "ms", "beside_weights_bytes", "off")


def _small_kernels(figures: Sequence[Figure]) -> str:
    rows = [
        {**one, "tile": _named(one["options"]) or "in use", "bandwidth": _percent(one.get("share"))}
        for one in _having(figures, "kernel", "rows", "options")
    ]
    return _table(rows, "kernel", "rows", "splits", "rule", "tile", "us", "bandwidth", "error")


def _ncu(figures: Sequence[Figure]) -> str:
    return _table(figures, *dict.fromkeys(key for one in figures for key in one))


TABLES: Mapping[str, tuple[str, Callable[[Sequence[Figure]], str]]] = MappingProxyType(
    {
        "environment": ("Rates of the device", _environment),
        "build": ("Building the kernels", _build),
        "self_tests": ("Self-tests of the kernels", _self_tests),
        "steps": ("A decoding step of the 7B's sizes", _steps),
        "weights": ("A decoding step with other weights", _steps),
        "profile": ("What a step consists of", _profile),
        "matmul": ("Quantised matmuls", _matmul),
        "attention": ("Attention over the cache", _attention),
        "captured_steps": ("Captured steps, and `gumbel` against `ar`", _captured_steps),
        "allocators": ("Captured steps under both allocators", _allocators),
        "draw": ("Drawing a picture", _draw),
        "movqgan": ("MoVQGAN's decoding", _movqgan),
        "small_kernels": ("The small kernels", _small_kernels),
        "ncu": ("Hardware counters", _ncu),
    }
)
