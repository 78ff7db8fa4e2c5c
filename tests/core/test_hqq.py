"""int4 weights whose zeros are fitted by HQQ: nearer than the range alone, in the form of every int4 file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina_core import load_transformer
from lumina_core.checkpoint import single_file
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.convert import plan_conversion
from lumina_core.errors import CheckpointError, InputError
from lumina_core.quant import hqq, schemes
from lumina_core.quant.schemes import Int4, quantize

from .cli_runs import CommandLine

FITTED, NEAREST = Int4(rounding="hqq"), Int4()


def heavy_tailed(rows: int, columns: int) -> Tensor:
    """Student t with 3 degrees of freedom, and some columns six times as large."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(4, rows, columns, generator=generator)
    weight = 0.02 * normal[0] / normal[1:].square().mean(0).sqrt()
    weight[:, ::97] *= 6
    return weight


def norm_of_errors(scheme: Int4, weight: Tensor, power: float) -> float:
    errors = scheme.dequantize(scheme.quantize(weight), weight.shape[1]) - weight
    return errors.abs().pow(power).mean().pow(1 / power).item()


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


@pytest.fixture(scope="session")
def fitted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint, converted to int4 with hqq."""
    out = tmp_path_factory.mktemp("fitted") / "hqq.safetensors"
    plan_conversion(checkpoint, "int4", rounding="hqq").write(out)
    return out


# The numbers


@pytest.mark.parametrize("columns", [256, 200])
def test_each_code_is_the_nearest_for_scale_and_zero_as_they_are_stored(columns: int) -> None:
    weight = heavy_tailed(16, columns)
    packed = FITTED.quantize(weight)
    scale, zero = packed["scale_zero"].float().split(1, -1)
    choices = (torch.arange(-8, 8) * scale + zero).repeat_interleave(128, 1)[:, :columns]
    found = FITTED.dequantize(packed, columns)
    best = (choices - weight[..., None]).abs().amin(-1)
    assert ((found - weight).abs() <= best * (1 + 1e-5) + 1e-9).all()


@pytest.mark.parametrize(("power", "share"), [(0.5, 0.98), (0.7, 0.98), (1.0, 0.98), (2.0, 0.96)])
def test_errors_of_heavy_tailed_weights_are_smaller_in_every_norm(power: float, share: float) -> None:
    weight = heavy_tailed(64, 1024)
    assert norm_of_errors(FITTED, weight, power) < share * norm_of_errors(NEAREST, weight, power)


def test_a_step_is_that_of_the_paper() -> None:
    """Soft-thresholding and the mean of the rest, in units of the scale."""
    groups = heavy_tailed(4, 256).unflatten(1, (-1, 128))
    low, high = groups.aminmax(dim=-1, keepdim=True)
    scale, zero = (high - low) / 15, (low + high) / 2 + (high - low) / 30
    found, expected = hqq.fit_zero(groups, scale, zero, -8, 7), zero
    for _ in range(hqq.ITERATIONS):
        codes = ((groups - expected) / scale).round().clamp(-8, 7)
        errors = (groups - expected) / scale - codes
        large = errors.sign() * (errors.abs() - errors.abs() ** (0.5 - 1) / hqq.BETA).clamp_min(0)
        expected = (groups - scale * (large + codes)).mean(-1, keepdim=True)
    # A step of the least squares alone ends up to 0.15 away; a tie that is rounded the other way moves less than 0.01.
    assert ((found - expected).abs() <= 0.01 * scale).all() and ((found - zero).abs() > 0.1 * scale).any()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(torch.zeros(200), id="zeros"),
        pytest.param(torch.full((200,), 0.3), id="one number"),
        pytest.param(torch.full((200,), schemes.LARGEST), id="one huge number"),
        pytest.param(torch.full((200,), -1e-40), id="one tiny number"),
        pytest.param(torch.linspace(-1e-38, 1e-38, 200), id="tiny"),
        pytest.param(torch.linspace(-1e36, 1e36, 200), id="huge"),
        pytest.param(torch.eye(200)[150], id="one alone"),
        pytest.param(torch.tensor([3.0, -3.0]).repeat(100), id="two numbers"),
    ],
)
def test_extreme_groups_stay_finite_and_near(row: Tensor) -> None:
    found = FITTED.dequantize(FITTED.quantize(row[None]), 200)[0]
    step = (row.max() - row.min()) / 15
    assert found.isfinite().all()
    assert ((found - row).abs() <= step + 2**-8 * row.abs().max() + 1e-37).all()


def test_a_row_does_not_depend_on_chunks_threads_or_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = heavy_tailed(40, 1000).bfloat16()
    whole = quantize(FITTED, weight, "cpu", "w")
    alone = FITTED.quantize(weight[31:32].float())
    monkeypatch.setattr(schemes, "CPU_ELEMENTS", 1000 * 7)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        in_parts = quantize(FITTED, weight, "cpu", "w")
    finally:
        torch.set_num_threads(threads)
    for name, tensor in whole.items():
        assert torch.equal(tensor, in_parts[name]) and torch.equal(tensor[31:32], alone[name])


# The file


def test_a_file_has_the_fitted_numbers_and_says_so(fitted: Path, whole: Path, checkpoint: Path) -> None:
    stored, name = load_file(fitted), "model.layers.1.mlp.down_proj."
    weight = open_checkpoint(checkpoint).tensors.get(f"{name}weight").float()
    for key, tensor in FITTED.quantize(weight).items():
        assert torch.equal(stored[name + key], tensor)
    assert metadata_of(fitted) == {**metadata_of(whole), "lumina_mgpt2.rounding": "hqq"}
    assert metadata_of(whole)["lumina_mgpt2.rounding"] == "nearest"
    assert fitted.stat().st_size < whole.stat().st_size + 16


def test_two_conversions_are_the_same_file(fitted: Path, checkpoint: Path, tmp_path: Path) -> None:
    plan_conversion(checkpoint, "int4", rounding="hqq").write(again := tmp_path / "again.safetensors")
    assert again.read_bytes() == fitted.read_bytes()


def test_a_file_of_other_rounding_loads_and_draws(lumina: CommandLine) -> None:
    out = lumina.path("hqq.safetensors")
    options = "--checkpoint", lumina.checkpoint, "--weights", "int4", "--rounding", "hqq", "--out", out
    assert lumina.run("convert", *options).succeeded().out.endswith("MiB, int4, rounding hqq\n")
    stored = "--checkpoint", out, "--weights", "auto"
    lumina.generate(*stored, "--decoder", "ar", name="ar").succeeded()
    lumina.generate(*stored, "--window", 7).succeeded()
    assert lumina.tokens() == lumina.tokens("ar") and lumina.stats()["weights"] == "int4"
    described = json.loads(lumina.run("info", "--json", "--checkpoint", out).succeeded().out)
    assert described["stored_weights"] == "int4 (converted, rounding hqq)"


def test_files_from_before_are_rounded_to_the_nearest(whole: Path, tmp_path: Path) -> None:
    metadata = {key: text for key, text in metadata_of(whole).items() if key != "lumina_mgpt2.rounding"}
    tensors = load_file(whole)
    save_file(tensors, old := tmp_path / "old.safetensors", metadata)
    assert open_checkpoint(old).single.rounding == "nearest"
    expected = load_transformer(whole).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_transformer(old).state_dict().items())
    save_file(tensors, old, {**metadata, "lumina_mgpt2.rounding": "odd"})
    with pytest.raises(CheckpointError, match=r"rounding is 'odd'; expected one of nearest, hqq: update the program"):
        open_checkpoint(old)


def test_names_of_roundings_are_those_of_the_file() -> None:
    assert (hqq.NEAREST, hqq.HQQ) == single_file.ROUNDINGS and Int4().rounding == hqq.NEAREST


# Bad input


@pytest.mark.parametrize("weights", ["int8", "bf16"])
def test_rounding_of_other_weights_is_refused(lumina: CommandLine, weights: str) -> None:
    out = lumina.path("x.safetensors")
    options = "--checkpoint", lumina.checkpoint, "--weights", weights, "--rounding", "nearest", "--out", out
    line = lumina.run("convert", *options).refusal()
    assert f"rounding is nearest and weights is {weights}; choose int4, or leave rounding out" in line
    assert not out.exists()


def test_unknown_rounding_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"rounding is 'up'; expected one of nearest, hqq"):
        plan_conversion(checkpoint, "int4", rounding="up")
