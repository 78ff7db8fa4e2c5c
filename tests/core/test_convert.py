"""A converted file is the checkpoint in one piece: the same model, tokenizer and codec, the same pictures."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lumina_core import load_movqgan, load_tokenizer, load_transformer
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.published import EMBEDDING, HEAD, is_block_linear, packed_name, published_shapes
from lumina_core.checkpoint.tensor_writer import TensorWriter, lay_out
from lumina_core.checkpoint.tensors import TensorSpec, TensorStore
from lumina_core.convert import CONVERT_WEIGHTS, plan_conversion
from lumina_core.model.transformer import Transformer
from lumina_core.quant.schemes import SCHEMES, quantize

from .cli_runs import CommandLine

CASES = ["mha", "gqa_swin"]
STORED = sorted({scheme.stored_as for scheme in SCHEMES.values()})


@pytest.fixture
def convert(checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """Converts the small checkpoint, or another; gives the file."""

    def run(weights: str, source: Path = checkpoint, **options: Path) -> Path:
        out = tmp_path / f"{source.stem}-{weights}.safetensors"
        plan_conversion(source, weights, **options).write(out)
        return out

    return run


@pytest.fixture(params=CASES)
def published(request: pytest.FixtureRequest, golden: Path, tokenizer_file: Path, tmp_path: Path) -> Path:
    """A golden model whose last 100 ids are called image codes, and a tokenizer."""
    folder = Path(shutil.copytree(golden / "transformer" / request.param, tmp_path / request.param))
    (folder / "expected.safetensors").rename(tmp_path / "expected.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_file.with_name(name), folder)
    config = json.loads((folder / "config.json").read_text())
    codes = {"image_token_offset": config["vocab_size"] - 100, "image_codebook_size": 100}
    del config["vocabulary_map"]  # of another tokenizer
    (folder / "config.json").write_text(json.dumps({**config, **codes}))
    return folder


def everything(model: Transformer) -> dict[str, Tensor]:
    return {**model.state_dict(), "text_embedding": model.text_embedding, "text_head": model.text_head}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(comparable(found[name]), comparable(tensor)), name


def comparable(tensor: Tensor) -> Tensor:
    """fp8 as its bytes: PyTorch 2.5 compares no fp8."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor


@pytest.mark.parametrize("weights", STORED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantised_while_loading_or_before_is_the_same(
    convert: Callable[..., Path], published: Path, weights: str, dtype: torch.dtype
) -> None:
    now = load_transformer(published, dtype=dtype, weights=weights)
    before = load_transformer(convert(weights, published), dtype=dtype)
    assert_same(everything(before), everything(now))
    expected = load_file(published.parent / "expected.safetensors")
    assert torch.equal(before(expected["input_ids"]), now(expected["input_ids"]))


@pytest.mark.parametrize(("weights", "far"), [("int8", 0.05), ("int4", 0.5)])
def test_logits_are_near_the_published_ones(published: Path, weights: str, far: float) -> None:
    expected = load_file(published.parent / "expected.safetensors")
    logits = load_transformer(published, dtype=torch.float32, weights=weights)(expected["input_ids"])
    assert (logits - expected["logits"]).norm() < far * expected["logits"].norm()


def test_an_int8_file_can_be_multiplied_with_inputs_in_8_bits(convert: Callable[..., Path]) -> None:
    dynamic = load_transformer(convert("int8-dynamic"))
    for file, weights in ((convert("int8"), "int8-dynamic"), (convert("int8-dynamic"), "int8")):
        model = load_transformer(file, weights=weights)
        assert_same(model.state_dict(), dynamic.state_dict())
        assert (model.matmul_kernel == dynamic.matmul_kernel) == (weights == "int8-dynamic")


def test_bf16_is_what_loading_in_bf16_gives(convert: Callable[..., Path], published: Path) -> None:
    file = convert("bf16", published)
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}
    found, expected = load_transformer(file).state_dict(), load_transformer(published).state_dict()
    assert_same(found, expected)


@pytest.mark.parametrize("weights", STORED)
def test_a_bf16_file_can_be_converted_on(convert: Callable[..., Path], weights: str) -> None:
    plain = convert("bf16")
    assert_same(
        load_transformer(convert(weights, plain)).state_dict(), load_transformer(plain, weights=weights).state_dict()
    )


@pytest.mark.parametrize("weights", STORED)
def test_only_the_blocks_linear_weights_are_quantised(
    convert: Callable[..., Path], published: Path, weights: str
) -> None:
    source, found = load_file(published / "model.safetensors"), load_file(convert(weights, published))
    config = TransformerConfig.from_file(published / "config.json")
    names = [name for name in published_shapes(config) if is_block_linear(name)]
    assert len(names) == 7 * config.num_hidden_layers
    expected = {name: source[name] for name in published_shapes(config) if name not in names}
    for name in names:
        packed = quantize(SCHEMES[weights], source[name], "cpu", name)
        expected |= {packed_name(name, key): tensor for key, tensor in packed.items()}
    assert_same(found, expected)


@pytest.mark.parametrize("weights", CONVERT_WEIGHTS)
def test_everything_is_in_the_file(convert: Callable[..., Path], checkpoint: Path, weights: str) -> None:
    file = convert(weights)
    opened, source = open_checkpoint(file), open_checkpoint(checkpoint)
    assert opened.path == opened.movqgan == file and opened.files == (file,)
    assert opened.scheme == (weights if weights in SCHEMES else None)
    assert opened.config.codec is not None and opened.vocabulary == source.vocabulary
    assert replace(opened.config, codec=None) == source.config
    own, published = load_tokenizer(file), load_tokenizer(checkpoint)
    assert own.encode_prompt("a red square") == published.encode_prompt("a red square")
    assert (own.special_ids, own.bos) == (published.special_ids, published.bos)
    assert_same(load_movqgan(file).state_dict(), load_movqgan(checkpoint / "movqgan.safetensors").state_dict())


def test_a_folder_that_holds_only_a_converted_file_is_a_checkpoint(
    convert: Callable[..., Path], tmp_path: Path
) -> None:
    file = convert("int4")
    folder = tmp_path / "folder"
    folder.mkdir()
    moved = file.rename(folder / file.name)
    assert open_checkpoint(folder).path == open_checkpoint(moved).path == moved
    assert open_checkpoint(folder).single == open_checkpoint(moved).single is not None


def test_movqgan_may_be_named_or_left_out(convert: Callable[..., Path], checkpoint: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(checkpoint, tmp_path / "bare"))
    codec = (bare / "movqgan.safetensors").rename(tmp_path / "codec.safetensors")
    file = convert("bf16", bare)
    assert open_checkpoint(file).movqgan is None
    assert not any(name.startswith("movqgan.") for name in load_file(file))
    assert_same(load_movqgan(convert("int4", bare, movqgan=codec)).state_dict(), load_movqgan(codec).state_dict())
    shutil.copy(codec, tmp_path / "movqgan.safetensors")
    assert open_checkpoint(file).movqgan == tmp_path / "movqgan.safetensors"


@pytest.mark.parametrize("weights", STORED)
def test_the_plain_weights_are_never_in_memory_together(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    given: list[weakref.ref] = []
    get = TensorStore.get_alone

    def get_copy(store: TensorStore, name: str, _: object) -> Tensor:
        if name not in (EMBEDDING, HEAD):
            assert sum(tensor() is not None for tensor in given) <= 1
        tensor = get(store, name).clone()
        given.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(TensorStore, "get_alone", get_copy)
    model = load_transformer(checkpoint, weights=weights)
    assert len(given) == len(published_shapes(model.config)) + 2  # the rows of codes are looked at before


def test_tables_stay_in_the_file_of_a_converted_model(convert: Callable[..., Path], checkpoint: Path) -> None:
    file = convert("int4")
    model, stored = load_transformer(file), load_file(file)
    assert torch.equal(model.text_embedding, stored[EMBEDDING]) and torch.equal(model.text_head, stored[HEAD])
    assert model.code_embedding.weight.dtype == torch.bfloat16 and stored[HEAD].dtype == torch.float32


def test_steps_are_reported(checkpoint: Path, tmp_path: Path) -> None:
    conversion, reported = plan_conversion(checkpoint, "int4"), []
    conversion.write(tmp_path / "x.safetensors", lambda: reported.append(1))
    assert len(reported) == len(conversion)
    assert (tmp_path / "x.safetensors").stat().st_size == conversion.layout.size


# The file


def test_written_file_is_read_by_the_library_and_aligned(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.arange(5, dtype=torch.uint8),
        "single": torch.tensor(7, dtype=torch.int8),
        "half": torch.randn(3, 3).bfloat16(),
        "full": torch.randn(2, 5),
        "none": torch.empty(0, 4),
    }
    kinds = {"odd": "U8", "single": "I8", "half": "BF16", "full": "F32", "none": "F32"}
    layout = lay_out({name: TensorSpec(kinds[name], tuple(tensors[name].shape)) for name in tensors}, {"a": "ä\n"})
    file = tmp_path / "x.safetensors"
    with file.open("wb") as target:
        writer = TensorWriter(target, layout)
        for name in reversed(tensors):
            writer.put(name, tensors[name].t() if tensors[name].ndim == 0 else tensors[name])
        writer.finish()
    assert file.stat().st_size == layout.size
    assert_same(load_file(file), tensors)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"a": "ä\n"}
    assert len(layout.header) % 8 == 0
    assert all(layout.offsets[name] % layout.specs[name].item_bytes == 0 for name in tensors)


@pytest.mark.parametrize("slice_bytes", [4, 20, 2**20])
def test_tensors_are_written_and_cast_in_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_bytes: int
) -> None:
    monkeypatch.setattr("lumina_core.checkpoint.tensor_writer.SLICE_BYTES", slice_bytes)
    tensor = torch.randn(7, 5)
    with (tmp_path / "x.safetensors").open("wb") as file:
        writer = TensorWriter(file, lay_out({"a": TensorSpec("BF16", (5, 7))}, {}))
        writer.put("a", tensor.t())
        writer.finish()
    assert torch.equal(load_file(tmp_path / "x.safetensors")["a"], tensor.t().bfloat16())


# Pictures


def converted(lumina: CommandLine, weights: str) -> Path:
    out = lumina.path(f"{weights}.safetensors")
    printed = (
        lumina.run("convert", "--checkpoint", lumina.checkpoint, "--weights", weights, "--out", out).succeeded().out
    )
    assert printed == f"{out}: {out.stat().st_size / 2**20:,.1f} MiB, {weights}\n"
    return out


@pytest.mark.parametrize("weights", STORED)
def test_a_converted_file_alone_draws_what_the_checkpoint_draws(lumina: CommandLine, weights: str) -> None:
    lumina.generate("--no-metadata", "--weights", weights).succeeded()
    file = converted(lumina, weights)
    assert lumina.stats()["weights"] == weights and lumina.stats()["dtype"] == "float32"
    for choice in ("auto", weights):
        lumina.generate("--no-metadata", "--checkpoint", file, "--weights", choice, name="alone").succeeded()
        assert lumina.path("alone.png").read_bytes() == lumina.path("o.png").read_bytes()
        assert lumina.stats("alone")["weights"] == weights
    lumina.run("decode", lumina.path("o.json"), "--checkpoint", file, "--out", lumina.path("d.png")).succeeded()
    assert lumina.path("d.png").read_bytes() == lumina.path("o.png").read_bytes()


@pytest.mark.parametrize("weights", ["int8", "int4", "int8-dynamic"])
@pytest.mark.parametrize("window", [1, 7, 19])
def test_gumbel_draws_what_ar_draws_when_quantised(lumina: CommandLine, weights: str, window: int) -> None:
    lumina.generate("--weights", weights, "--decoder", "ar", name="ar").succeeded()
    lumina.generate("--weights", weights, "--window", window).succeeded()
    assert lumina.tokens() == lumina.tokens("ar")


def test_info_reports_the_bytes_of_quantised_weights(lumina: CommandLine) -> None:
    def info(*options: object) -> dict:
        return json.loads(lumina.run("info", "--json", *options).succeeded().out)

    sizes = {}
    for weights in ("fp32", *SCHEMES):
        values = info("--checkpoint", lumina.checkpoint, "--weights", weights)
        model = load_transformer(lumina.checkpoint, dtype=torch.float32, weights=weights)
        assert values["weights"] == weights
        sizes[weights] = values["weight_bytes_on_device"]
        assert sizes[weights] == sum(part.nbytes for part in model.parameters())
    file = converted(lumina, "int4")
    of_file = info("--checkpoint", file)
    assert of_file["checkpoint"] == of_file["movqgan"] == str(file)
    assert (of_file["weights"], of_file["weight_bytes_on_device"]) == ("int4", sizes["int4"])
