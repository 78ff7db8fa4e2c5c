"""What the suite measured, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..kernels import Figure
from ..kernels.choice import agrees, choose_tiles

TOP_KERNELS = 14
Line = dict[str, Any]


def tables(lines: Sequence[Line]) -> str:
    """Markdown: what became of each stage, and a table for each that has figures, with its device and date.

    Of a stage that ran several times, the last that ended well counts, or else the last that has figures for a table.
    """
    parts = [_stages(lines)]
    for name, (title, table) in TABLES.items():
        runs = [line for line in lines if line["stage"] == name]
        runs = [*(line for line in runs if line["status"] != "ok"), *(line for line in runs if line["status"] == "ok")]
        for line in reversed(runs):
            if text := table(line["figures"]):
                parts.append(f"### {title}\n\n{_place(line)}\n\n{text}")
                break
    return "\n\n".join(parts)


def _place(line: Line) -> str:
    """Where and when a stage ran."""
    software = f"torch {line.get('torch', 'not told')}, Triton {line.get('triton', 'not told')}"
    place = f"{line.get('device', 'device not told')}, {line.get('date', 'no date')[:10]}, {software}"
    return f"Dry run at toy sizes, no figures of a GPU: {place}." if line.get("dry_run") else f"{place}."


def _stages(lines: Sequence[Line]) -> str:
    rows = [
        (line["stage"], line["status"], f"{line.get('seconds', 0):.0f}", line.get("error") or line.get("reason"))
        + (line.get("date", "")[:19], line.get("device"))
        for line in lines
    ]
    return _markdown(("stage", "status", "seconds", "why", "begun", "device"), rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; nothing where it would have no row."""
    cells = [[_cell(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)) if cells else ""


def _together(*parts: str) -> str:
    """Those parts that there are, as paragraphs."""
    return "\n\n".join(part for part in parts if part)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}") if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _percent(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float) else ""


def _gigabytes(value: Any) -> str:
    return f"{value / 1e9:.2f} GB" if isinstance(value, int | float) else ""


def _having(figures: Iterable[Figure], *keys: str) -> list[Figure]:
    return [one for one in figures if all(key in one for key in keys)]


def _environment(figures: Sequence[Figure]) -> str:
    rows = []
    for one in _having(figures, "rate"):
        if "bytes_per_second" in one:
            rows.append((one["rate"], f"{one['bytes_per_second'] / 1e9:,.0f} GB/s, read and written"))
        elif "flops" in one:
            rows.append((f"{one['rate']}, side {one['side']}", f"{one['flops'] / 1e12:,.1f} TFLOP/s"))
        else:
            rows.append((f"{one['rate']}, on the host", f"{one['us']:.1f} µs"))
    return _markdown(("rate", "measured"), rows)


def _build(figures: Sequence[Figure]) -> str:
    counts = _having(figures, "built", "of")
    failed = [(one["kernel"], one["variant"], one["error"]) for one in _having(figures, "variant", "error")]
    told = (
        f"{counts[-1]['built']} of {counts[-1]['of']} kernels built in {counts[-1]['after']:.0f} s." if counts else ""
    )
    return _together(told, _markdown(("kernel", "variant", "error"), failed))


def _self_tests(figures: Sequence[Figure]) -> str:
    rows = [
        (one["kernel"], one.get("variant"), one.get("samples"), one.get("largest_error"), one["reason"] or "agrees")
        for one in _having(figures, "kernel", "reason")
    ]
    head = "kernel", "cache", "samples", "largest error", "outcome"
    return _together(_markdown(head, rows), _tests(figures))


def _tests(figures: Sequence[Figure]) -> str:
    rows = [
        (one["tests"], one.get("passed"), one.get("failed"), one.get("skipped"), one.get("error") or _failures(one))
        for one in _having(figures, "tests")
    ]
    return _markdown(("tests", "passed", "failed", "skipped", "what"), rows)


def _failures(one: Figure) -> str:
    return "; ".join([*(failure["test"] for failure in one.get("failures", [])), *one.get("skipped_for", [])])


def _steps(figures: Sequence[Figure]) -> str:
    """A line for each window and context, captured beside not."""
    names = [f"{one['weights']} weights: {one['kernel']}" for one in _having(figures, "weights", "kernel")]
    names += [f"{one['kv']} cache: {one['attention']}" for one in _having(figures, "kv", "attention")]
    steps = _having(figures, "window", "context", "ms")
    found: dict[tuple[Any, ...], dict[bool, Figure]] = {}
    for one in steps:
        found.setdefault((one["weights"], one["kv"], one["context"], one["window"]), {})[one["compile"] != "off"] = one
    rows = []
    for (weights, kv, context, window), ways in sorted(found.items()):
        auto, off = ways.get(True, {}), ways.get(False, {})
        best = auto or off
        rows.append(
            (weights, kv, context, window, auto.get("ms"), auto.get("captured"), off.get("ms"), best["ceiling_ms"])
            + (_percent(best["share"]), f"{best['tokens_per_second']:.0f} ({best['accepted']})")
        )
    head = "weights", "cache", "context", "window", "ms", "captured", "ms, compile off", "ceiling ms", "share"
    if not steps:
        return ""
    source = f"Tokens accepted a step, in brackets, are {steps[0]['accepted_from']}."
    return _together(f"{'; '.join(dict.fromkeys(names))}.", _markdown((*head, "tokens/s"), rows), source)


def _profile(figures: Sequence[Figure]) -> str:
    parts = []
    for total in _having(figures, "step_us"):
        kernels = [one for one in _having(figures, "kernel", "calls") if one["compile"] == total["compile"]]
        parts.append(
            f"compile {total['compile']} ({'captured' if total['captured'] else 'not captured'}), W {total['window']} "
            f"at {total['context']}: {total['step_us']:.0f} µs a step, {total['kernels_us']:.0f} in "
            f"{total['launches']:.0f} launches, {total['between_us']:.0f} between them."
        )
        rows = [
            (one["kernel"], one["calls"], one["us"], _percent(one["us"] / total["kernels_us"]))
            for one in kernels[:TOP_KERNELS]
        ]
        parts.append(_markdown(("kernel", "launches a step", "µs a step", "share"), rows))
    return _together(*parts)


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _swept(figures: Sequence[Figure], keys: Sequence[str]) -> dict[tuple[Any, ...], tuple[Figure, Figure]]:
    """By problem: the figure of the tile in use, and the fastest one that gives the same result."""
    found: dict[tuple[Any, ...], list[Figure]] = {}
    for one in _having(figures, "tile", "us", *keys):
        found.setdefault(tuple(one[key] for key in keys), []).append(one)
    return {
        key: (
            next((one for one in ones if one["in_use"]), {}),
            min((one for one in ones if agrees(one)), key=lambda one: one["us"], default={}),
        )
        for key, ones in found.items()
    }


def _matmul(figures: Sequence[Figure]) -> str:
    theirs = {
        (one["kernel"], one["layer"], one["rows"]): one.get("us")
        for one in figures
        if "tile" not in one and "layer" in one
    }
    rows = [
        (kernel, f"{layer} ({outs} × {ins})", count, used.get("us"), _percent(used.get("share")), best.get("us"))
        + (_percent(best.get("share")), _named(best.get("tile", {})))
        + tuple(theirs.get((name, layer, count)) for name in ("torch bf16", "torch int4", "torch fp8"))
        for (kernel, layer, outs, ins, count), (used, best) in _swept(
            figures, ("kernel", "layer", "out", "in", "rows")
        ).items()
    ]
    head = "kernel", "layer", "rows", "µs in use", "bandwidth", "µs best", "bandwidth", "best tile"
    by_layer = _markdown((*head, "µs torch bf16", "µs torch int4", "µs torch fp8"), rows)
    return _together(by_layer, _choice(figures), _errors(figures))


def _choice(figures: Sequence[Figure]) -> str:
    """The tiles that the sweep speaks for, for all layers together."""
    bandwidth = next((one["copy_bytes_per_second"] for one in _having(figures, "copy_bytes_per_second")), None)
    if not bandwidth:
        return ""
    parts = []
    for chosen in choose_tiles(figures, bandwidth):
        rows = [(one.rows, one.in_use, one.best, *one.tile.values()) for one in chosen.rows]
        head = "rows", "µs of all layers, in use", "µs best", "rows of a tile", "outputs", "warps", "stages"
        parts += [f"{chosen.kernel}, best splits: {_named(chosen.splits)}."] if rows else []
        parts.append(_markdown(head, rows))
        if chosen.left_out:
            counts = ", ".join(map(str, chosen.left_out))
            parts.append(f"{chosen.kernel}: not every layer was timed at {counts} rows, of which nothing follows.")
    return _together(*parts)


def _attention(figures: Sequence[Figure]) -> str:
    rows = [
        (
            *key,
            used.get("us"),
            _percent(used.get("share")),
            best.get("us"),
            _percent(best.get("share")),
            _named(best.get("tile", {})),
        )
        for key, (used, best) in _swept(figures, ("kv", "window", "context")).items()
    ]
    head = "cache", "window", "context", "µs in use", "bandwidth", "µs best", "bandwidth", "best tile"
    return _together(_markdown(head, rows), _errors(figures))


def _errors(figures: Sequence[Figure]) -> str:
    """How often settings failed, by what they said."""
    counts: dict[str, int] = {}
    for one in _having(figures, "kernel", "error"):
        said = f"{one['kernel']}: {one['error']}"
        counts[said] = counts.get(said, 0) + 1
    return _together(*(f"{count} settings failed: {said}" for said, count in counts.items()))


def _captured_steps(figures: Sequence[Figure]) -> str:
    rows = [
        (one["dtype"], one["kernel"], one["attention"], one["pictures"], one["differing_pictures"])
        + (f"{one['differing_codes']} of {one['codes']}", one["forwards"], one["forwards_of_ar"])
        for one in _having(figures, "compared")
    ]
    head = "demo in", "matmuls", "attention", "pictures", "pictures that differ", "codes that differ", "forwards"
    return _together(_markdown((*head, "forwards of ar"), rows), _tests(figures))


def _allocators(figures: Sequence[Figure]) -> str:
    rows = [
        (one["allocator"], one["kind"], one["ended"], one.get("captured"), one.get("same"), one.get("freed"))
        + (one.get("same_again"), one.get("not_captured_for") or one.get("error"))
        for one in _having(figures, "allocator", "ended")
    ]
    head = "allocator", "capture", "ended", "captured", "same picture", "freed", "same again", "what it said"
    return _markdown(head, rows)


def _draw(figures: Sequence[Figure]) -> str:
    rows = [
        (one["run"], one["picture"], one["window"], one["seconds"], one["warm_up_seconds"], one["forwards"])
        + (one["tokens"], *(_gigabytes(one[name]) for name in ("peak_bytes", "reserved_bytes", "planned_bytes")))
        for one in _having(figures, "run", "seconds")
    ]
    head = "run", "picture", "window", "seconds", "warm-up", "forwards", "tokens", "peak", "reserved", "planned"
    told = [
        f"The loop took {one['loop_seconds']:.2f} s, its steps alone {one['steps_seconds']:.2f} s "
        f"({one['step_ms']:.2f} ms each): {one['loop_over_steps']:.2f} times."
        for one in _having(figures, "loop_over_steps")
    ]
    return _together(_markdown(head, rows), *told)


def _movqgan(figures: Sequence[Figure]) -> str:
    rows = [
        (one["picture"], one["dtype"], one["channels_last"], one["strip_rows"] or "whole", one["ms"])
        + (_gigabytes(one["beside_weights_bytes"]), one["off"])
        for one in _having(figures, "picture", "ms")
    ]
    head = "picture", "dtype", "channels last", "rows of a strip", "ms", "beside the weights", "off from the first"
    return _markdown(head, rows)


def _small_kernels(figures: Sequence[Figure]) -> str:
    rows = [
        (one["kernel"], one["rows"], one["splits"], _named(one["options"]) or "in use", one.get("us"))
        + (_percent(one.get("share")), one.get("error"))
        for one in _having(figures, "kernel", "rows", "options")
    ]
    return _markdown(("kernel", "rows", "splits", "tile", "µs", "bandwidth", "error"), rows)


def _ncu(figures: Sequence[Figure]) -> str:
    keys = list(dict.fromkeys(key for one in figures for key in one))
    return _markdown(keys, [[one.get(key) for key in keys] for one in figures])


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
