"""A fingerprint tells files apart, wherever they lie and whatever they are called."""

from __future__ import annotations

from pathlib import Path

from lumina_core.files.fingerprint import SAMPLE_BYTES, SAMPLES, file_hash, sampled_hash


def test_a_change_of_a_tenth_of_a_large_file_is_noticed(tmp_path: Path) -> None:
    content = bytearray(4 * SAMPLES * SAMPLE_BYTES)
    first, moved = tmp_path / "a", tmp_path / "b"
    first.write_bytes(content)
    moved.write_bytes(content)
    plain = sampled_hash([first], "config")
    assert sampled_hash([moved], "config") == plain != sampled_hash([first], "another")
    for start in range(0, len(content), len(content) // 10):
        end = min(start + len(content) // 10, len(content))
        moved.write_bytes(content[:start] + bytes([1]) * (end - start) + content[end:])
        assert sampled_hash([moved], "config") != plain
    moved.write_bytes(content + b"\0")
    assert sampled_hash([moved], "config") != plain


def test_every_byte_of_a_condition_counts(tmp_path: Path) -> None:
    path = tmp_path / "condition.png"
    path.write_bytes(bytes(10**5))
    plain = file_hash(path)
    path.write_bytes(bytes(10**5 - 1) + b"\1")
    assert file_hash(path) != plain
