"""LoRA files: the forms of several programs are read alike, and what does not fit is refused in a sentence."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.errors import CheckpointError, InputError, LuminaError
from lumina_core.lora.applied import AppliedLora, in_use, parse_argument, read_applied
from lumina_core.lora.file import Lora, read_lora

from .lora_files import FORMS, MATRICES, kohya, peft, random_pairs, save_lora, tensors_of

CONFIG = open_checkpoint("demo").config
ONE = {(1, "q_proj"): (torch.ones(2, 256), torch.ones(256, 2))}
Q1 = "model.layers.1.self_attn.q_proj"


def scale_of(path: Path) -> float:
    (matrix,) = read_lora(path, CONFIG).matrices.values()
    return matrix.scale


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_names_is_read_alike(form: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    pairs = random_pairs(CONFIG, matrices=(*MATRICES, "qkv_proj", "gate_up_proj"))
    lora = read_lora(save_lora(tmp_path / "a.safetensors", pairs, form), CONFIG)
    assert set(lora.matrices) == set(pairs)
    for place, (down, up) in pairs.items():
        found = lora.matrices[place]
        assert torch.equal(found.down, down) and torch.equal(found.up, up) and found.scale == 1


def test_alpha_is_of_the_file_then_of_the_config_then_of_the_metadata_and_else_the_rank(tmp_path: Path) -> None:
    folder = tmp_path / "cat"
    folder.mkdir()
    path = save_lora(folder / "adapter_model.safetensors", ONE)
    assert scale_of(path) == 1
    save_lora(path, ONE, metadata={"lora_alpha": "16", "r": "2", "format": "pt"})
    assert scale_of(path) == 8
    save_lora(path, ONE, metadata={"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 3})})
    assert scale_of(path) == 1.5
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4, "r": 2}), encoding="utf-8")
    assert scale_of(folder) == 2 and read_lora(folder, CONFIG).name == "cat"
    config.write_text(json.dumps({"lora_alpha": 4, "use_rslora": True}), encoding="utf-8")
    assert scale_of(folder) == pytest.approx(4 / 2**0.5)
    config.write_text(json.dumps({"lora_alpha": 4, "alpha_pattern": {"q_proj": 10}}), encoding="utf-8")
    assert scale_of(folder) == 5
    config.write_text(json.dumps({"lora_alpha": 4, "alpha_pattern": {r"layers\.[0]\..*": 10}}), encoding="utf-8")
    assert scale_of(folder) == 2
    alpha = {f"{kohya(Q1)[0].removesuffix('.lora_down.weight')}.alpha": torch.tensor(6.0)}
    assert scale_of(save_lora(path, ONE, kohya, None, **alpha)) == 3


def test_a_convolution_of_1x1_is_a_matrix(tmp_path: Path) -> None:
    pairs = {place: tuple(one[..., None, None] for one in pair) for place, pair in ONE.items()}
    (matrix,) = read_lora(save_lora(tmp_path / "a.safetensors", pairs, kohya), CONFIG).matrices.values()
    assert matrix.down.shape == (2, 256) and matrix.up.shape == (256, 2)


def test_other_tensors_are_named_in_a_warning_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = {f"base_model.model.{name}": torch.ones(2, 3) for name in ("lm_head.lora_A.weight", f"{Q1}.lora_B.bias")}
    with caplog.at_level(logging.WARNING):
        lora = read_lora(save_lora(tmp_path / "a.safetensors", ONE, **others), CONFIG)
    assert set(lora.matrices) == set(ONE)
    (said,) = caplog.messages
    assert "2 of 4 tensors are of no linear layer" in said and "`base_model.model.lm_head.lora_A.weight`" in said


def changed(**tensors: Tensor | None) -> Callable[[dict[str, Tensor]], object]:
    """A change of A or B of the only matrix; None removes it."""

    def change(found: dict[str, Tensor]) -> None:
        for part, values in tensors.items():
            name = peft(Q1)[part == "B"]
            del found[name]
            if values is not None:
                found[name] = values

    return change


def renamed(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda found: found.update({name: torch.ones(2, 2)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda found: [found.pop(name) for name in list(found)] and found.update(a=torch.ones(2)),
            "holds no LoRA for",
        ),
        (changed(A=torch.ones(3, 256)), f"A of rank 3 and B of rank 2 for {Q1}; expected one rank"),
        (
            changed(B=torch.ones(512, 2)),
            f"changes {Q1} as a matrix of 512x256; expected 256x256: the LoRA is",
        ),
        (changed(A=None), f"holds no A for {Q1}; expected A"),
        (changed(B=None), f"holds no B for {Q1}; expected A"),
        (
            changed(A=torch.full((2, 256), torch.nan)),
            "holds NaN or infinite values in `base_model.model",
        ),
        (changed(B=torch.full((256, 2), torch.inf)), "holds NaN or infinite values"),
        (changed(A=torch.ones(2, 256, dtype=torch.int32)), "in I32; expected one of F32"),
        (changed(A=torch.ones(512)), "of shape [512]; expected a matrix"),
        (renamed(peft("model.layers.6.mlp.up_proj")[0]), "the model has 6 layers"),
        (renamed(f"{Q1}.lora_A.weight"), "holds both `"),
        (renamed(f"{Q1}.lora_magnitude_vector.weight"), "is DoRA (it holds `"),
        (renamed("lora_unet_a.dora_scale"), "is DoRA"),
        (renamed("lora_unet_a.hada_w1_a"), "is LoHa"),
        (renamed("lora_unet_a.lokr_w1"), "is LoKr"),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[..., object], said: str, tmp_path: Path) -> None:
    tensors = tensors_of(ONE)
    change(tensors)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        read_lora(path, CONFIG)
    assert said in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"use_dora": True}, {"peft_type": "LOHA"}, {"lora_alpha": "many"}, {"alpha_pattern": 3}]
)
def test_a_config_that_is_not_supported_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    path = save_lora(tmp_path / "adapter_model.safetensors", ONE)
    (tmp_path / "adapter_config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        read_lora(path, CONFIG)


def test_a_file_that_holds_no_tensors_is_named_for_what_it_is(tmp_path: Path) -> None:
    page = tmp_path / "a.safetensors"
    page.write_text("<!DOCTYPE html><html></html>", encoding="utf-8")
    for path, said in ((page, "is a web page"), (tmp_path / "b.safetensors", "is missing"), (tmp_path, "the folder")):
        with pytest.raises(LuminaError, match=said):
            read_lora(path, CONFIG)


def test_the_fingerprint_follows_the_file_and_its_config(tmp_path: Path) -> None:
    path, ids = tmp_path / "adapter_model.safetensors", set()
    for pairs in (ONE, {place: (down, 2 * up) for place, (down, up) in ONE.items()}):
        ids.add(read_lora(save_lora(path, pairs), CONFIG).id)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4}', encoding="utf-8")
    ids.add(read_lora(path, CONFIG).id)
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("text", "file", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.5", "a.safetensors", 0.5),
        ("a.safetensors:-1e1", "a.safetensors", -10.0),
        (r"C:\x.safetensors", r"C:\x.safetensors", 1.0),
        ("C:/x.safetensors", "C:/x.safetensors", 1.0),
        (r"C:\x.safetensors:0.5", r"C:\x.safetensors", 0.5),
        ("C:x", "C:x", 1.0),
        ("with:colon/a.safetensors", "with:colon/a.safetensors", 1.0),
    ],
)
def test_an_argument_is_a_file_and_a_strength(text: str, file: str, strength: float) -> None:
    assert parse_argument(text) == (Path(file), strength)


@pytest.mark.parametrize("strength", ["abc", "", "nan", "inf", "1.0.0"])
def test_a_strength_that_is_no_number_is_refused(strength: str) -> None:
    with pytest.raises(InputError, match="expected a finite number"):
        parse_argument(f"a.safetensors:{strength}")


def test_a_file_may_have_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        Path("a:2").touch()
    except OSError:
        pytest.skip("the file system has no colons in names")
    assert parse_argument("a:2") == (Path("a:2"), 1.0)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", None, True])
def test_a_strength_of_python_is_a_finite_number(strength: Any) -> None:
    lora = Lora(Path("a"), {}, "")
    with pytest.raises(InputError, match="strength of a LoRA"):
        AppliedLora(lora, strength)
    with pytest.raises(InputError, match="strength of a LoRA"):
        read_applied((lora, strength), CONFIG)


def test_other_values_are_no_lora() -> None:
    with pytest.raises(InputError, match="expected a LoRA"):
        read_applied(3, CONFIG)  # type: ignore[arg-type]


def test_a_strength_of_zero_is_no_lora() -> None:
    applied = AppliedLora(Lora(Path("a"), {}, ""), 0.5)
    assert in_use((replace(applied, strength=0), applied, replace(applied, strength=-0.0))) == (applied,)
