"""Whether the files of a loaded model are still those that it was loaded from."""

from __future__ import annotations

from ..lumina_core.errors import CheckpointError
from .types import ManagedLumina


def check_unchanged(model: ManagedLumina) -> None:
    """Raises CheckpointError if a file of the model has changed since it was loaded.

    Some weights are read from the file while the model draws. A file that is changed under them draws another picture,
    and one that is cut off ends the process.
    """
    files = model.lumina.files
    if files is not None and (changed := files.changed()):
        raise CheckpointError(
            f"{changed[0]} was changed or removed after {model.name} was loaded; run again, which loads it anew"
        )
