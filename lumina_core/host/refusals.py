"""Refusals of memory in every wording, told apart from other errors. Imports no PyTorch, which may have no room."""

from __future__ import annotations

import errno
import pickle
import re

from ..errors import CheckpointError, LuminaError, OutOfMemory

# What PyTorch, oneDNN, MKL, CUDA and its libraries, Metal, C++, Rust, the loader of shared libraries, Python's threads,
# Linux and Windows say when memory is refused; most of them raise plain RuntimeErrors. oneDNN and cuBLAS use some of
# the words for other failures, which this model's shapes do not cause.
_WORDINGS = (
    r"(?:can't|cannot|could not|couldn't|unable to|fail(?:s|ed)? to) (?:re)?allocate(?! memory in static TLS)",
    r"(?:not enough|insufficient) (?:gpu |host |free )?memory",
    r"out[ _-]?of[ _-]?(?:host|device)?[ _-]?memory",
    r"ALLOC(?:ATION)?_FAILED|cublasCreate",
    r"memory allocation (?:of \d+ bytes )?failed|allocation of \d+ bytes failed",
    r"bad_alloc|bad allocation",
    r"unable to mmap memory",
    r"could not (?:create|execute) (?:an?|the) (?:memory|primitive|stream|engine|compiled_partition)",
    r"could not create allocator",
    r"can't start new thread|cannot create (?:std::)?thread|resource temporarily unavailable",
    r"failed to map segment from shared object|cannot create shared object descriptor",
    r"\(?os error (?:12|1455)\)|error code: <?(?:12|1455)\b|paging file is too small",
    r"not enough (?:quota|storage)",
    r"invalid buffer size",  # Apple's GPU, of more than Metal gives one tensor
)
_REFUSAL = re.compile("|".join(_WORDINGS), re.IGNORECASE)
# The name of a file, as PyTorch quotes it. It may hold any words.
_FILE_NAME = re.compile(r"<[^<>]*[^<>\d][^<>]*>")
# Numbers of Windows: not enough memory, out of memory, and a paging file that is too small.
_WINDOWS_REFUSALS = (8, 14, 1455)
# What safetensors says of a tensor that PyTorch had no memory for: its `torch.asarray` drops the refusal.
_NO_TENSOR = "could not determine the shape of object type 'torch.storage"
# Classes by name, of libraries that are not imported here. A plain Exception is what libraries in Rust raise.
_CLASSES = ("SafetensorError", "Exception")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the error is a refused allocation on a device or the host, in any wording, or a CheckpointError of one.

    An OSError with a number is judged by the number; its text may be the name of a file.
    """
    if isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's
        return True
    if isinstance(error, LuminaError):  # a checkpoint is not damaged where there was no memory to read it
        return isinstance(error, CheckpointError) and is_out_of_memory(error.__cause__)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM or getattr(error, "winerror", None) in _WINDOWS_REFUSALS
    if isinstance(error, ValueError):
        return str(error).startswith(_NO_TENSOR)
    may_be = isinstance(error, RuntimeError | OSError | ImportError | SystemError | pickle.UnpicklingError)
    text = _FILE_NAME.sub("", str(error)) if may_be or type(error).__name__ in _CLASSES else ""
    return _REFUSAL.search(text) is not None
