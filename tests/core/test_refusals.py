"""A refused allocation is known in every wording, and other errors are not taken for one. A GPU without bf16 is too."""

from __future__ import annotations

import errno
import logging
import pickle

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from lumina_core.device import choose_dtype, explain_out_of_memory, is_out_of_memory, warn_if_emulated
from lumina_core.errors import CheckpointError, InputError, OutOfMemory

REFUSALS = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    OutOfMemory("it does not fit"),
    OSError(errno.ENOMEM, "Cannot allocate memory", "model.safetensors"),
    OSError("Cannot allocate memory (os error 12)"),
    SafetensorError("Error while mapping: Cannot allocate memory (os error 12)"),
    ValueError("could not determine the shape of object type 'torch.storage.UntypedStorage'"),
    SafetensorError("The paging file is too small for this operation to complete. (os error 1455)"),
    Exception("Cannot allocate memory (os error 12)"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ImportError("libcuda.so.1: cannot create shared object descriptor: Cannot allocate memory"),
    ImportError("DLL load failed while importing _C: The paging file is too small for this operation to complete."),
    pickle.UnpicklingError(
        "Weights only load failed. unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"
    ),
    *map(
        RuntimeError,
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 300000000 bytes. Error code 12 (Cannot allocate memory)",
            "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9",
            "unable to mmap 300001485 bytes from file </tmp/movqgan.ckpt>: Cannot allocate memory (12)",
            "Couldn't open file mapping: <movqgan.ckpt>, error code: <1455>",
            "$ Torch: unable to mmap memory: you tried to mmap 3 GB.",
            "could not create a memory object",
            "could not create a primitive",
            "could not execute a primitive",
            "could not create a primitive descriptor for the matmul primitive. Run workload with environment variable",
            "std::bad_alloc",
            "bad allocation",
            "Intel oneMKL DFTI ERROR: Not enough memory to allocate",
            "*** Error in PARDISO  (     insufficient_memory) error_num= -2".replace("_memory", " memory"),
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
            "CUDA driver error: out of memory",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
            "HIP out of memory. Tried to allocate 2 GiB",
            "MPS backend out of memory (MPS allocated: 9.06 GB, max allowed: 9.07 GB).",
            "Invalid buffer size: 26.67 GiB",
            "hipErrorOutOfMemory",
            "Triton Error [CUDA]: out of memory",
            "can't start new thread",
            "Resource temporarily unavailable",
            "Cannot create std::thread",
        ),
    ),
)
OTHERS = (
    KeyboardInterrupt(),
    ValueError("out of memory"),
    InputError("the prompt `out of memory` is too long"),
    CheckpointError("a file named cannot allocate is damaged"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.png"),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    OSError(errno.ENOSPC, "No space left on device", "model.safetensors"),
    SafetensorError("Error while deserializing header: incomplete metadata, file not fully covered"),
    ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
    ImportError("No module named 'triton'"),
    *map(
        RuntimeError,
        (
            "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
            "open file </home/out of memory/movqgan.ckpt> in read-only mode: No such file or directory (2)",
            "PytorchStreamReader failed finding central directory: file in archive is not in a subdirectory",
            "CUDA error: an illegal memory access was encountered",
            "CUDA error: device-side assert triggered",
            "expected a memory format",
        ),
    ),
)


@pytest.mark.parametrize("error", REFUSALS, ids=str)
def test_a_refusal_of_memory_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_another_error_is_not_taken_for_one(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_an_error_of_windows_is_judged_by_its_number() -> None:
    error = OSError(errno.EINVAL, "The paging file is too small", "model.safetensors")
    error.winerror = 1455
    assert is_out_of_memory(error)


def test_what_was_made_of_a_refusal_is_one() -> None:
    damaged = CheckpointError("model.safetensors is damaged")
    damaged.__cause__ = MemoryError()
    assert is_out_of_memory(damaged)


def test_numpys_refusal_is_known() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(2**62, np.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", REFUSALS[:-1], ids=str)
def test_a_refusal_is_explained_and_what_was_said_is_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def run() -> None:
        raise error

    with caplog.at_level(logging.INFO, "lumina_core.device"), pytest.raises(OutOfMemory) as caught:
        explain_out_of_memory(run, lambda: "too large")
    if not isinstance(error, OutOfMemory):
        first = str(error).partition("\n")[0] or "MemoryError"
        assert str(caught.value) == "too large" and caplog.messages == [f"memory was refused: {first}"]


def test_an_out_of_memory_within_keeps_its_own_message() -> None:
    def run() -> None:
        raise OutOfMemory("the codec does not fit")

    with pytest.raises(OutOfMemory, match="the codec does not fit"):
        explain_out_of_memory(run, lambda: "the run does not fit")


# bf16


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_bf16_is_for_gpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    """PyTorch says that bf16 is supported where it only emulates it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_dtype(torch.device("cuda")) == expected
    assert choose_dtype(torch.device("cpu")) == torch.float32


def test_rocm_says_itself_whether_it_has_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_dtype(torch.device("cuda")) == torch.bfloat16


def test_bf16_that_is_emulated_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    for dtype, device in ((torch.float32, "cuda"), (torch.bfloat16, "cpu"), (torch.bfloat16, "cuda")):
        warn_if_emulated(dtype, torch.device(device))
    assert caplog.messages == ["Tesla T4 has no bf16 and emulates it slowly; fp16, int8 or int4 weights suit it"]
