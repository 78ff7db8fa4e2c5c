"""Codes and pictures are the published program's, and the architecture comes from the tensors alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina_core.errors import CheckpointError, InputError
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.config import MoVQGANConfig, infer_config
from lumina_core.movqgan.load import build_movqgan, load_movqgan

TOLERANCE = 1e-4
CASES = ["f8_square", "f8_wide"]


@dataclass(frozen=True)
class Case:
    """A small MoVQGAN and what the published program made of one picture and of one grid of codes."""

    model: MoVQGAN
    expected: dict[str, Tensor]

    @property
    def codes(self) -> Tensor:
        return self.expected["codes"][None]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, golden: Path) -> Case:
    folder = golden / "movqgan" / request.param
    return Case(load_movqgan(folder / "movqgan.safetensors"), load_file(folder / "expected.safetensors"))


@pytest.fixture(scope="module")
def square(golden: Path) -> Path:
    return golden / "movqgan" / "f8_square"


@pytest.fixture(scope="module")
def tensors(square: Path) -> dict[str, Tensor]:
    return load_file(square / "movqgan.safetensors")


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def refusal(path: Path) -> str:
    """The one line that a CheckpointError says when this is loaded."""
    with pytest.raises(CheckpointError) as caught:
        load_movqgan(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_encode_gives_the_published_codes(case: Case) -> None:
    assert_close(case.model.encode_latent(case.expected["pixels"]), case.expected["prequant_latent"])
    assert torch.equal(case.model.encode(case.expected["pixels"]), case.expected["indices"][None])


def test_decode_gives_the_published_picture(case: Case) -> None:
    assert_close(case.model.decode(case.codes), case.expected["decoded"])


def test_encode_then_decode_is_the_published_reconstruction(case: Case) -> None:
    assert_close(case.model.decode(case.model.encode(case.expected["pixels"])), case.expected["reconstruction"])


def test_a_batch_is_its_pictures(case: Case) -> None:
    codes = torch.cat((case.codes, case.codes.flip(2)))
    pictures = case.model.decode(codes)
    assert_close(pictures, torch.cat([case.model.decode(one[None]) for one in codes]))
    pixels = torch.cat((case.expected["pixels"].flip(3), case.expected["pixels"]))
    assert torch.equal(case.model.encode(pixels)[1], case.expected["indices"])


def test_every_code_vector_is_nearest_to_itself(case: Case) -> None:
    every = torch.arange(case.model.config.codebook_size).view(1, 8, -1)
    assert torch.equal(case.model.nearest(case.model.lookup(every)), every)


def test_any_whole_number_type_is_a_code(case: Case) -> None:
    assert torch.equal(case.model.decode(case.codes.to(torch.uint8)), case.model.decode(case.codes))


def test_all_rows_are_the_whole_picture(case: Case) -> None:
    assert torch.equal(case.model.decode_rows(case.codes, 0, case.codes.shape[1]), case.model.decode(case.codes))


@pytest.mark.parametrize(("first_row", "end_row"), [(3, 5), (0, 4), (4, 8)])
def test_rows_whose_surroundings_are_the_grid_are_those_of_the_picture(
    case: Case, first_row: int, end_row: int
) -> None:
    whole = case.model.decode(case.codes)
    rows = case.model.decode_rows(case.codes, first_row, end_row)
    assert torch.equal(rows, whole[:, :, 8 * first_row : 8 * end_row])


def test_rows_are_decoded_from_a_strip(case: Case) -> None:
    tall = case.codes.repeat(1, 4, 1)
    rows = case.model.decode_rows(tall, 10, 12)
    assert torch.equal(rows, case.model.decode(tall[:, 6:16])[:, :, 32:48])


def test_pickle_with_foreign_parts_holds_the_same_model(square: Path) -> None:
    foreign = set(torch.load(square / "movqgan.ckpt", weights_only=True)) - set(
        load_file(square / "movqgan.safetensors")
    )
    assert foreign and all(name.startswith("loss.") for name in foreign)
    found, expected = (load_movqgan(square / name).state_dict() for name in ("movqgan.ckpt", "movqgan.safetensors"))
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loaded_model_has_one_dtype_and_only_infers(square: Path, dtype: torch.dtype) -> None:
    model = load_movqgan(square / "movqgan.safetensors", dtype=dtype)
    assert {weight.dtype for weight in model.parameters()} == {model.dtype} == {dtype}
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())


def test_bfloat16_is_near(square: Path) -> None:
    expected = load_file(square / "expected.safetensors")
    picture = load_movqgan(square / "movqgan.safetensors", dtype=torch.bfloat16).decode(expected["codes"][None])
    assert (picture.float() - expected["decoded"]).norm() < 0.05 * expected["decoded"].norm()


@pytest.mark.parametrize("name", CASES)
def test_config_is_read_off_the_tensors(golden: Path, name: str) -> None:
    published = json.loads((golden / "movqgan" / name / "config.json").read_text())
    config = infer_config(shapes_of(load_file(golden / "movqgan" / name / "movqgan.safetensors")))
    assert config == published_config(published) and config.downscale == published["downsample"]


def test_a_stray_number_does_not_grow_the_model(tensors: dict[str, Tensor]) -> None:
    blocks = infer_config(shapes_of(tensors)).res_blocks
    assert infer_config({**shapes_of(tensors), "encoder.down.0.block.99.x": (1,)}).res_blocks == blocks + 1


@pytest.mark.parametrize("size", ["67M", "102M", "270M"])
def test_published_sizes_are_built_from_their_names_and_shapes(golden: Path, size: str) -> None:
    published = json.loads((golden / "movqgan_state_dicts.json").read_text())[size]
    tensors = {name: torch.empty(shape, device="meta") for name, shape in published["tensors"].items()}
    model = build_movqgan(tensors, size, dtype=torch.float16, device="meta")
    assert model.config == published_config(published["params"])
    assert shapes_of(model.state_dict()) == shapes_of(tensors)


def published_config(values: dict) -> MoVQGANConfig:
    """The config that a published program would make of its own values."""
    sizes = values["ddconfig"]
    resolutions = [sizes["resolution"] // 2**level for level in range(len(sizes["ch_mult"]))]
    return MoVQGANConfig(
        channels=sizes["ch"],
        multipliers=tuple(sizes["ch_mult"]),
        res_blocks=sizes["num_res_blocks"],
        attention_levels=tuple(i for i, side in enumerate(resolutions) if side in sizes["attn_resolutions"]),
        latent_channels=sizes["z_channels"],
        code_channels=values["embed_dim"],
        codebook_size=values["n_embed"],
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decoder.conv_out.bias": None}, "missing `decoder.conv_out.bias`"),
        ({"encoder.down.0.block.9.conv1.weight": torch.ones(1)}, "missing `encoder.down.0.block.1.conv1.weight`"),
        ({"decoder.extra.weight": torch.ones(1)}, "unexpected `decoder.extra.weight`"),
        (
            {"quant_conv.weight": torch.ones(4, 3, 1, 1)},
            "`quant_conv.weight` has shape [4, 3, 1, 1], expected [4, 4, 1, 1]",
        ),
        ({"quantize.embedding.weight": None}, "`quantize.embedding.weight` is missing"),
        ({"quantize.embedding.weight": torch.ones(4)}, "`quantize.embedding.weight` has shape [4]; expected 2"),
        ({"encoder.conv_in.weight": torch.ones(0, 3, 3, 3)}, "`encoder.conv_in.weight` has shape [0, 3, 3, 3]"),
        ({"encoder.conv_in.weight": torch.ones(16, 3, 3, 3)}, "has 16 channels"),
        ({"encoder.down.1.block.0.conv1.weight": torch.rand(33, 32, 3, 3)}, "level widths [32, 33, 64, 64]"),
    ],
)
def test_tensors_of_no_movqgan_are_named(
    tmp_path: Path, tensors: dict[str, Tensor], change: dict[str, Tensor | None], named: str
) -> None:
    file = tmp_path / "movqgan.safetensors"
    save_file({name: tensor for name, tensor in (tensors | change).items() if tensor is not None}, file)
    message = refusal(file)
    assert named in message and str(file) in message


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param("movqgan.safetensors", lambda data: b"", id="empty safetensors"),
        pytest.param("movqgan.safetensors", lambda data: data[: len(data) // 2], id="cut safetensors"),
        pytest.param("movqgan.ckpt", lambda data: b"", id="empty pickle"),
        pytest.param("movqgan.ckpt", lambda data: data[: len(data) // 2], id="cut pickle"),
        pytest.param("movqgan.ckpt", lambda data: b"<!doctype html>", id="web page"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, square: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(damage((square / name).read_bytes()))
    assert str(tmp_path / name) in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["movqgan_270M.ckpt", "movqgan.safetensors", "."])
def test_absent_file_is_named(tmp_path: Path, name: str) -> None:
    what = "is a folder" if name == "." else "is missing"
    assert f"{tmp_path / name} {what}; expected" in refusal(tmp_path / name)


def test_weights_of_another_model_are_refused(golden: Path) -> None:
    file = golden / "transformer" / "mha" / "model.safetensors"
    message = refusal(file)
    assert str(file) in message and "not a MoVQGAN" in message


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(3, 64, 64),
        torch.zeros(1, 4, 64, 64),
        torch.zeros(1, 3, 64, 60),
        torch.zeros(1, 3, 0, 64),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ],
)
def test_bad_pixels_are_refused(case: Case, pixels: Tensor) -> None:
    with pytest.raises(InputError, match=r"expected floats \[B,3,H,W\]|multiples of 8"):
        case.model.encode(pixels)


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(8, 8, dtype=torch.long),
        torch.zeros(1, 0, 8, dtype=torch.long),
        torch.zeros(1, 8, 8),
        torch.full((1, 8, 8), -1),
        torch.full((1, 8, 8), 256),
    ],
)
def test_bad_codes_are_refused(case: Case, codes: Tensor) -> None:
    with pytest.raises(InputError, match=r"expected integers \[B,h,w\]|expected 0…"):
        case.model.decode(codes)
