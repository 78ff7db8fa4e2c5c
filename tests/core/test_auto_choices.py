"""What auto chooses, and says: weights that run well on a device, and the int8 cache where only that fits."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import find_converted, nearby_files, open_checkpoint
from lumina_core.checkpoint.locate import DEMO
from lumina_core.cli.common import device_budget
from lumina_core.convert import plan_conversion
from lumina_core.decoding.memory_plan import Demand, plan_memory
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.device import HOST_SHARE, available_bytes, total_bytes
from lumina_core.errors import OutOfMemory
from lumina_core.host.memory import Host
from lumina_core.memory import Budget, check_fits, choose_weights, fit_cache, weights_of
from lumina_core.pictures.sizes import largest_size
from lumina_core.pipeline import Lumina
from lumina_core.quant.weights import WeightsPlan, plan_weights
from lumina_core.timing.synthetic import SYNTHETIC

from .cli_runs import CommandLine

BF16, FP32 = torch.bfloat16, torch.float32
SEVEN, CODEC = SYNTHETIC["7b"].config, SYNTHETIC["7b"].movqgan
GIB = 2**30


def picture(weights: str = "int4", kv_cache: str = "auto") -> Demand:
    """The published model's largest picture."""
    request = Request([[0] * 64], 96, 96, settings=DecodeSettings(kv_cache=kv_cache))
    return Demand(SEVEN, plan_weights(weights, None, BF16), request, CODEC)


def total(weights: str, kv_cache: str) -> int:
    return plan_memory(picture(weights, kv_cache)).total


# Weights


def chosen(capacity: float | None, config: TransformerConfig = SEVEN, dtype: torch.dtype = BF16) -> WeightsPlan:
    return choose_weights("auto", None, dtype, config, None if capacity is None else int(capacity))


@pytest.mark.parametrize(
    ("model", "gib", "dtype", "expected"),
    [
        ("7b", 80, BF16, "bf16"),
        ("7b", 32, BF16, "bf16"),
        ("7b", 24, BF16, "int4"),
        ("7b", 8, BF16, "int4"),
        ("7b", 64, FP32, "fp32"),
        ("7b", 32, FP32, "int4"),
        ("2b", 12, BF16, "bf16"),
        ("2b", 8, BF16, "int4"),
        ("tiny", 0.1, BF16, "bf16"),
    ],
)
def test_auto_is_plain_where_all_stays_resident_and_else_int4(
    model: str, gib: float, dtype: torch.dtype, expected: str
) -> None:
    plan = chosen(gib * GIB, SYNTHETIC[model].config, dtype)
    assert plan.name == expected and plan.dtype == dtype


def test_a_tenth_of_the_memory_is_left() -> None:
    needed = total("bf16", "auto")
    assert [chosen(needed / share).name for share in (0.899, 0.901)] == ["bf16", "int4"]


def test_the_choice_is_said_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lumina_core.memory"):
        chosen(24e9)
        chosen(80e9)
        chosen(None)
        choose_weights("auto", "int8", BF16, SEVEN, 24 * 10**9)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "weights auto: int4, since bf16 would take about 24.3 GB of 24.0 GB for a picture of 768x768, "
            "cache included",
        ),
        (
            "INFO",
            "weights auto: bf16, which takes about 24.3 GB of 80.0 GB for a picture of 768x768, cache included",
        ),
        ("INFO", "weights auto: bf16, the device's memory is not known"),
        ("INFO", "weights auto: int8, as stored"),
    ]


def test_what_the_user_names_is_taken_and_not_remarked_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for choice in ("bf16", "fp32", "int8", "int4"):
            assert choose_weights(choice, None, BF16, SEVEN, GIB).name == choice
    assert not caplog.records


def test_the_largest_trained_size_is_the_squarest_of_the_most_pixels() -> None:
    assert largest_size(None) == (768, 768)
    assert largest_size([(64, 64), (32, 160), (64, 96), (96, 64)]) in {(64, 96), (96, 64)}
    assert largest_size([(32, 256), (64, 128), (32, 32)]) == (64, 128)


def test_memory_of_this_machine_is_known() -> None:
    assert total_bytes(torch.device("cpu")) > 2**28


def test_the_demo_stays_plain(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lumina_core"):
        lumina = Lumina.load(DEMO, device="cpu")
    assert weights_of(lumina.transformer).name == "fp32"
    said = [text for text in caplog.messages if "weights" in text]
    assert len(said) == 1 and said[0].startswith("weights auto: fp32, which takes about")


def test_a_model_that_is_too_large_is_loaded_in_int4(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumina_core.pipeline.total_bytes", lambda _: 10**5)
    assert weights_of(Lumina.load(checkpoint, device="cpu").transformer).name == "int4"
    monkeypatch.setattr("lumina_core.pipeline.total_bytes", lambda _: 10**9)
    assert weights_of(Lumina.load(checkpoint, device="cpu").transformer).name == "fp32"


def test_weights_that_are_held_already_leave_the_budget_as_it_was(
    small: Lumina, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loaded model takes memory that its estimate counts again."""
    monkeypatch.setattr(Host, "available_bytes", lambda _: 10**9)
    held = sum(part.nbytes for model in (small.transformer, small.movqgan) for part in model.parameters())
    assert available_bytes(torch.device("cpu"), held) == int(HOST_SHARE * 10**9) + held


# Converted files


def test_a_converted_file_of_the_same_checkpoint_is_found(checkpoint: Path, tmp_path: Path) -> None:
    home = shutil.copytree(checkpoint, tmp_path / "model")
    opened = open_checkpoint(home)
    for weights in ("int8", "int4"):
        plan_conversion(checkpoint, weights).write(tmp_path / f"{weights}.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    files = nearby_files(opened)
    assert {file.name for file in files} == {
        *("broken.safetensors", "int8.safetensors", "int4.safetensors", "movqgan.safetensors")
    }
    assert find_converted(opened, "int4", files) == tmp_path / "int4.safetensors"
    assert find_converted(opened, "int8", reversed(files)) == tmp_path / "int8.safetensors"
    assert find_converted(opened, "int4", [tmp_path / "int8.safetensors"]) is None


def test_a_converted_file_of_another_checkpoint_is_not_found(checkpoint: Path, tmp_path: Path) -> None:
    """A fine-tuned checkpoint has the same config and other weights."""
    home = shutil.copytree(checkpoint, tmp_path / "model")
    (shard,) = (file for file in home.glob("model-*.safetensors") if "model.norm.weight" in load_file(file))
    tensors = load_file(shard)
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] * 1.5}, shard)
    plan_conversion(checkpoint, "int4").write(tmp_path / "int4.safetensors")
    assert find_converted(open_checkpoint(home), "int4", [tmp_path / "int4.safetensors"]) is None
    assert find_converted(open_checkpoint(checkpoint), "int4", [tmp_path / "int4.safetensors"]) is not None


def test_the_log_names_what_loads_faster(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = shutil.copytree(checkpoint, tmp_path / "model")

    def said(source: Path, weights: str) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "lumina_core.pipeline"):
            Lumina.load(source, weights=weights, device="cpu")
        return caplog.messages

    assert said(home, "int4") == [
        f"{home} is quantised to int4 while it is read; `python -m lumina_core convert --checkpoint {home} --weights "
        "int4 --out lumina-int4.safetensors` makes a file that loads faster"
    ]
    plan_conversion(home, "int4").write(converted := tmp_path / "small.safetensors")
    assert said(home, "int4") == [
        f"{home} is quantised to int4 while it is read; {converted} is the same and loads faster"
    ]
    assert said(home, "fp32") == [] and said(converted, "auto") == []


# The cache


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_the_cache_is_int8_where_only_that_fits(weights: str, caplog: pytest.LogCaptureFixture) -> None:
    wanted, most, least = picture(weights), total(weights, "auto"), total(weights, "int8")
    assert fit_cache(wanted, Budget(most)) is wanted and not caplog.records
    for capacity in (most - 1, least):
        assert fit_cache(wanted, Budget(capacity)) == picture(weights, "int8")
    assert len(caplog.messages) == 2
    assert fit_cache(wanted, Budget(least - 1)) is wanted and len(caplog.messages) == 2


def test_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    fit_cache(picture(), Budget(12e9, streamed=True))
    (line,) = caplog.messages
    assert line == (
        "key/value cache auto: int8, since a picture of 768x768 would take about 13.7 GB (weights 3.7 GB, cache "
        "9.9 GB, forward 65 MB) with a bf16 cache and there are 12.0 GB"
    )


@pytest.mark.parametrize("kv_cache", ["int8", "int4"])
def test_a_cache_that_the_user_names_is_kept(kv_cache: str) -> None:
    wanted = picture(kv_cache=kv_cache)
    assert fit_cache(wanted, Budget(1)) is wanted


def on_host(monkeypatch: pytest.MonkeyPatch, weights: str, kv_cache: str = "auto") -> tuple[Demand, Budget]:
    """The largest picture of the 7B in fp32, and the budget of a host of 24 GiB."""
    monkeypatch.setattr(Host, "available_bytes", lambda _: int(24.1 * GIB))
    request = Request([[0] * 64], 96, 96, settings=DecodeSettings(kv_cache=kv_cache))
    budget = device_budget(torch.device("cpu"))
    assert budget is not None
    return Demand(SEVEN, plan_weights(weights, None, FP32), request, CODEC), budget


def test_a_picture_that_would_fill_the_host_takes_the_int8_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """23.3 GiB of 24.1: the system would end the process after hours."""
    wanted, budget = on_host(monkeypatch, "int4")
    assert 23 * GIB < plan_memory(wanted).total < 24.1 * GIB
    assert fit_cache(wanted, budget).request.settings.kv_cache == "int8"
    check_fits(fit_cache(wanted, budget), budget)


@pytest.mark.parametrize(
    ("weights", "batch", "expected"),
    [
        ("int4", 1, "the int8 cache, or 704x704"),
        ("fp32", 1, "the int8 cache and int4 weights"),
        ("fp32", 2, "batch 1 and the int8 cache and int4 weights"),
    ],
)
def test_what_fits_the_host_is_named(monkeypatch: pytest.MonkeyPatch, weights: str, batch: int, expected: str) -> None:
    wanted, budget = on_host(monkeypatch, weights)
    wanted = replace(wanted, request=replace(wanted.request, prompts=wanted.request.prompts * batch))
    with pytest.raises(OutOfMemory, match=f"smaller settings that fit: {expected}$"):
        check_fits(wanted, budget)


def test_given_rows_are_kept() -> None:
    given = torch.arange(8 * 96).view(8, 96)
    request = Request([[0]], 96, 96, given)
    wanted = Demand(SEVEN, WeightsPlan(BF16), request, CODEC)
    fitted = fit_cache(wanted, Budget(plan_memory(wanted).total - 1))
    assert fitted.request.settings.kv_cache == "int8" and torch.equal(fitted.request.given[0], given)


# The command line


def test_generate_takes_the_int8_cache_and_says_so(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is that of a GPU with kernels: in plain PyTorch a model this small gains nothing by int8."""
    batch = ("--batch", 16, "--window", 1)
    lumina.generate(*batch, "--kv", "int8", name="small").succeeded()
    lumina.generate(*batch, name="large").succeeded()
    assert lumina.stats("large")["kv"] == "auto"
    monkeypatch.setattr("lumina_core.decoding.memory_plan.kernels_expected", lambda *_: True)
    taken = bytes_taken(lumina, *batch)
    monkeypatch.setattr("lumina_core.cli.common.available_bytes", lambda _: taken - 1)
    outcome = lumina.generate(*batch)
    assert outcome.code == 0 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("WARNING: key/value cache auto: int8, since 16 pictures of 32x32 would take about")
    stats = lumina.stats()
    assert (stats["kv"], stats["asked"]) == ("int8", {"weights": "fp32", "kv": "auto"})
    assert lumina.tokens() == lumina.tokens("small")


def bytes_taken(lumina: CommandLine, *options: object) -> int:
    """The estimate of `generate` with the plain cache."""
    seen: list[Demand] = []

    def stop(demand: Demand, _: Budget) -> Demand:
        seen.append(demand)
        raise OutOfMemory("seen enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lumina_core.cli.common.available_bytes", lambda _: 1)
        patch.setattr("lumina_core.cli.common.fit_cache", stop)
        assert lumina.generate(*options, name="seen").code == 2
    return plan_memory(seen[0]).total


def test_generate_loads_int4_where_plain_weights_are_too_large(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumina_core.cli.planned.total_bytes", lambda _: 10**5)
    outcome = lumina.generate("--weights", "auto")
    assert outcome.code == 0
    assert outcome.err.startswith("WARNING: weights auto: int4, since fp32 would take about") and "\n" in outcome.err
    assert (lumina.stats()["weights"], lumina.stats()["asked"]["weights"]) == ("int4", "auto")
    lumina.generate("--weights", "int4", name="named").succeeded()
    assert lumina.tokens() == lumina.tokens("named")


def test_a_run_for_which_no_cache_is_small_enough_is_refused(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumina_core.cli.common.available_bytes", lambda _: 10**5)
    lumina.refuses_to_generate(expected="a picture of 32x32 would take about")


def test_info_says_that_a_run_takes_the_int8_cache(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumina_core.cli.info.available_bytes", lambda _: 12 * 10**9)
    options = ("info", "--synthetic", "7b", "--weights", "int4", "--width", 768, "--height", 768)
    assert "no; smaller settings that fit: the int8 cache" in lumina.run(*options).succeeded().out
    assert "; a run takes the int8 cache by itself" in lumina.run(*options).succeeded().out
    assert "by itself" not in lumina.run(*options, "--kv", "int8", "--batch", 9).succeeded().out


def test_bench_does_not_change_the_cache_that_it_times(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumina_core.cli.common.available_bytes", lambda _: 12 * 10**9)
    expected = "smaller settings that fit: the int8 cache"
    lumina.refuses("bench", "--synthetic", "7b", "--weights", "int4", expected=expected)
