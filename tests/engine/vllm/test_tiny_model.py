"""The tiny model is the same every time, and made once."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from pointsman.engine.vllm.tiny_model import cached_tiny_model, make_tiny_model

MISSING = find_spec("tokenizers") is None


def needs_tokenizers(test: Callable[..., None]) -> Callable[..., None]:
    """The package comes with vLLM, and so does the turn of these tests."""
    skipped = pytest.mark.skipif(MISSING, reason="tokenizers is not installed (make engine-cpu)")
    return pytest.mark.vllm(skipped(test))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@needs_tokenizers
def test_the_same_arguments_make_the_same_files(tmp_path: Path) -> None:
    """Training the tokenizer is repeatable, and drawing the weights is seeded."""
    for name in "ab":
        make_tiny_model(tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@needs_tokenizers
@pytest.mark.parametrize("experts", [False, True])
def test_the_weights_file_is_sound(experts: bool, tmp_path: Path) -> None:
    """Header and tensors of the safetensors file fit together, without gaps, two bytes a number."""
    make_tiny_model(tmp_path, experts=experts)
    data = (tmp_path / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    at = 0
    for name, tensor in header.items():
        count = 1
        for length in tensor["shape"]:
            count *= length
        assert tensor["data_offsets"] == [at, at + 2 * count], name
        at += 2 * count
    assert 8 + size + at == len(data)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 4096


@needs_tokenizers
def test_the_cache_makes_a_model_once(tmp_path: Path) -> None:
    """The second call answers the same folder without writing to it; nothing half made is left."""
    first = cached_tiny_model(tmp_path)
    made_ns = (first / "config.json").stat().st_mtime_ns
    assert cached_tiny_model(tmp_path) == first
    assert (first / "config.json").stat().st_mtime_ns == made_ns
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
