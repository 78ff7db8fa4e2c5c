"""Devices other than NVIDIA's, by stand-ins: choosing one, its dtype and its memory."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lumina_core import device as devices
from lumina_core import load_movqgan, load_transformer
from lumina_core.cli.common import device_argument
from lumina_core.cli.packages import PACKAGES
from lumina_core.device import (
    available_bytes,
    check_dtype,
    choose_device,
    choose_dtype,
    device_name,
    free_bytes,
    free_memory,
    is_device_name,
    peak_bytes,
    synchronize,
    total_bytes,
)
from lumina_core.errors import InputError
from lumina_core.host.memory import Host

from .cli_runs import CommandLine

MPS, XPU = torch.device("mps"), torch.device("xpu")
GIB = 2**30


@dataclass
class Machine:
    """The GPUs that PyTorch finds, as stand-ins."""

    monkeypatch: pytest.MonkeyPatch

    def has(self, kind: str, count: int = 1, **functions: Any) -> SimpleNamespace:
        """Adds GPUs of a kind, whose module in PyTorch has these functions."""
        found = {"is_available": lambda: count > 0, "device_count": lambda: count, "empty_cache": lambda: None}
        module = SimpleNamespace(**found | functions)
        self.monkeypatch.setattr(torch, kind, module)
        if kind == "mps":
            self.monkeypatch.setattr(torch.backends.mps, "is_available", lambda: count > 0)
        return module


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine without a GPU."""
    made = Machine(monkeypatch)
    for kind in devices.GPUS:
        made.has(kind, 0)
    monkeypatch.setattr(devices, "_check_holds_values", lambda _: None)
    return made


# Choosing one


@pytest.mark.parametrize(
    ("there", "expected"),
    [((), "cpu"), (("mps",), "mps"), (("xpu", "mps"), "xpu"), (("mps", "cuda"), "cuda"), (("xpu", "cuda"), "cuda")],
)
def test_auto_takes_the_first_that_is_there_and_says_so(
    machine: Machine, caplog: pytest.LogCaptureFixture, there: tuple[str, ...], expected: str
) -> None:
    for kind in there:
        machine.has(kind)
    with caplog.at_level(logging.INFO, "lumina_core.device"):
        assert choose_device("auto") == torch.device(expected)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"device auto: {expected}")


@pytest.mark.parametrize(
    ("there", "name", "expected"),
    [
        ((), "mps", "PyTorch finds no Apple device; use cpu, or"),
        ((), "xpu:1", "the device is xpu:1 and PyTorch finds no Intel device; use cpu, or"),
        (("mps",), "cuda", "PyTorch finds no CUDA device; use cpu, mps, or"),
        (("xpu",), "xpu:1", "the device is xpu:1 and PyTorch finds 1; expected a number below 1"),
    ],
)
def test_a_device_that_is_not_there_is_answered_by_what_is(
    machine: Machine, there: tuple[str, ...], name: str, expected: str
) -> None:
    for kind in there:
        machine.has(kind)
    with pytest.raises(InputError, match=expected):
        choose_device(name)


def test_names_on_the_command_line(lumina: CommandLine) -> None:
    good, bad = (
        ("auto", "cpu", "cuda", "cuda:3", "xpu", "xpu:0", "mps"),
        ("", "gpu", "cpu:0", "cuda:", "cuda:-1", "auto:0"),
    )
    assert [device_argument(name) for name in good] == list(good)
    assert not any(map(is_device_name, bad))
    lumina.refuses_to_generate("--device", "gpu", expected="--device: invalid choice: 'gpu'; expected auto, cpu")


@pytest.mark.parametrize("load", [load_transformer, load_movqgan])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "gpu"}, "the device is 'gpu'; expected auto, cpu, cuda"),
        ({"device": "xpu"}, "finds no Intel device"),
        ({"dtype": "fp8"}, "dtype is 'fp8'; expected auto, bf16"),
        ({"dtype": torch.int8}, "dtype is torch.int8; expected auto, bf16"),
    ],
)
def test_loading_checks_device_and_dtype(
    machine: Machine, checkpoint: Path, load: Callable[..., Any], options: dict[str, Any], expected: str
) -> None:
    path = checkpoint / "movqgan.safetensors" if load is load_movqgan else checkpoint
    with pytest.raises(InputError, match=expected):
        load(path, **options)


@pytest.mark.parametrize(("version", "is_new"), [("2.4.1+cu121", False), ("1.13", False), ("2.5.0", True)])
def test_an_older_pytorch_is_one_line(version: str, is_new: bool) -> None:
    assert PACKAGES["torch"][1] == devices.TORCH
    if is_new:
        devices.check_torch(version)
        return
    with pytest.raises(ImportError, match=f"^this is PyTorch {re.escape(version)}; expected 2.5 or later: update it$"):
        devices.check_torch(version)


# Its dtype


def holds(monkeypatch: pytest.MonkeyPatch, *dtypes: torch.dtype) -> None:
    monkeypatch.setattr(devices, "_multiplies", lambda dtype, _: dtype in dtypes)


@pytest.mark.parametrize("works", [True, False])
def test_apple_computes_in_bf16_where_that_works_and_else_in_fp16(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    machine.has("mps")
    holds(monkeypatch, torch.float32, *([torch.bfloat16] if works else []))
    assert choose_dtype(MPS) == (torch.bfloat16 if works else torch.float16)


def test_intel_computes_in_bf16_where_it_need_not_emulate_it(machine: Machine) -> None:
    machine.has("xpu", is_bf16_supported=lambda including_emulation=True: including_emulation)
    assert choose_dtype(XPU) == torch.float16
    machine.has("xpu", is_bf16_supported=lambda: True)  # as in PyTorch 2.5
    assert choose_dtype(XPU) == torch.bfloat16


def test_weights_that_a_device_does_not_hold_are_one_line(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, torch.float32, torch.float16)
    for dtype, name in (
        (torch.float64, "float64"),
        (torch.bfloat16, "bfloat16"),
        (torch.float8_e4m3fn, "float8_e4m3fn"),
    ):
        with pytest.raises(InputError, match=f"^mps does not compute in {name}; expected other weights: fp32, fp16"):
            check_dtype(dtype, MPS)
    check_dtype(torch.float16, MPS)
    check_dtype(torch.float64, torch.device("cpu"))


# Its memory


def test_the_memory_of_apple_is_what_metal_recommends_of_the_hosts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("mps", recommended_max_memory=lambda: 10 * GIB, driver_allocated_memory=lambda: 4 * GIB)
    monkeypatch.setattr(Host, "available_bytes", lambda _: 12 * GIB)
    monkeypatch.setattr(Host, "total_bytes", lambda _: 16 * GIB)
    assert (available_bytes(MPS, GIB), free_bytes(MPS), total_bytes(MPS)) == (7 * GIB, 6 * GIB, 10 * GIB)
    monkeypatch.setattr(Host, "available_bytes", lambda _: 5 * GIB)
    assert available_bytes(MPS) == int(0.9 * 5 * GIB)


def test_the_memory_of_intel_is_known_as_far_as_its_driver_tells(machine: Machine) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("The device doesn't support querying available free memory")

    common = {"memory_reserved": lambda _: 3 * GIB, "memory_allocated": lambda _: GIB}
    machine.has("xpu", mem_get_info=lambda _: (5 * GIB, 16 * GIB), max_memory_allocated=lambda _: GIB, **common)
    assert (available_bytes(XPU), free_bytes(XPU), total_bytes(XPU)) == (5 * GIB, 7 * GIB, 16 * GIB)
    assert peak_bytes(XPU) == GIB
    properties = {"get_device_properties": lambda _: SimpleNamespace(total_memory=16 * GIB)}
    for lacking in ({"mem_get_info": refuse}, {}):
        machine.has("xpu", **lacking, **properties, **common)
        assert (available_bytes(XPU), free_bytes(XPU), total_bytes(XPU)) == (None, None, 16 * GIB)


def test_each_gpu_is_waited_for_and_freed_by_its_own_functions(machine: Machine) -> None:
    calls: list[str] = []
    machine.has("mps", synchronize=lambda: calls.append("waited"), empty_cache=lambda: calls.append("freed"))
    machine.has("xpu", get_device_name=lambda _: "Arc")
    synchronize(MPS)
    synchronize(XPU)
    free_memory()
    assert calls == ["waited", "freed"] and (device_name(MPS), device_name(XPU)) == ("mps", "Arc")
