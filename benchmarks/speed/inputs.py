"""
The only module that makes inputs: models whose weights have the statistics of real ones, and no part that repeats another.

Every tensor is one of all-MiniLM-L6-v2 with noise of a hundredth of its own deviation; in bf16 they are rounded from that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from safetensors.numpy import load_file

from ci_modelcache.demo.model import real_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

MODELS = Path(__file__).parent.parent.parent / ".pytest_cache" / "models"
"""Where the tests keep the real model too."""
_NOISE = 0.01
_ALIGNED = 8
_WEIGHTS = "model.safetensors"


@frozen
class Snapshot:
    """The files of *folder* as the model *name*: paths and sizes, together *size* bytes."""

    name: str
    folder: Path
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        return sum(self.files.values())

    @property
    def ref(self) -> str:
        """What our commands call it."""
        return f"bench/{self.name}@v1"

    @property
    def says(self) -> str:
        """What it is, for people."""
        return f"{self.size / 1e6:.1f} MB in {len(self.files):,} files"


def snapshot_of(name: str, folder: Path) -> Snapshot:
    """What *folder* holds now."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return Snapshot(name, folder, {path.relative_to(folder).as_posix(): path.stat().st_size for path in found})


def make_model(folder: Path, *, size: int, shards: int, dtype: str, seed: int) -> None:
    """Fill *folder* with a model of about *size* bytes in so many *shards* of *dtype* (F32 or BF16), and its small files."""
    real = real_model(_models())
    shutil.copytree(real, folder, ignore=shutil.ignore_patterns(_WEIGHTS, ".git*"))
    tensors = load_file(real / _WEIGHTS)
    noise = np.random.default_rng(seed)
    for number in range(shards):
        name = _WEIGHTS if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        _write_shard(folder / name, tensors, size // shards, dtype, noise)


def make_small(folder: Path, *, count: int, size: int, seed: int) -> None:
    """Fill *folder* with *count* files of *size* bytes."""
    noise = np.random.default_rng(seed)
    for number in range(count):
        file = folder / f"part-{number // 500:02}" / f"{number:05}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(noise.bytes(size))


def make_real(folder: Path) -> None:
    """The real model as it is."""
    shutil.copytree(real_model(_models()), folder)


def _models() -> Path:
    MODELS.mkdir(parents=True, exist_ok=True)
    return MODELS


def _write_shard(file: Path, tensors: Mapping[str, Array], size: int, dtype: str, noise: np.random.Generator) -> None:
    """A safetensors *file* of about *size* bytes; written piece by piece, as some are larger than the memory."""
    width = {"F32": 4, "BF16": 2}[dtype]
    header: dict[str, Any] = {}
    chosen, offset = [], 0
    for name, tensor in _endlessly(tensors):
        count = min(tensor.size, (size - offset) // width)
        if count == 0:
            break
        shape = list(tensor.shape) if count == tensor.size else [count]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + count * width]}
        chosen.append((tensor, count))
        offset += count * width
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % _ALIGNED)
    with file.open("wb") as out:
        out.write(len(told).to_bytes(_ALIGNED, "little") + told)
        for tensor, count in chosen:
            out.write(_noisy(tensor.reshape(-1)[:count], dtype, noise))


def _endlessly(tensors: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    floats = {name: tensor for name, tensor in tensors.items() if tensor.dtype == np.float32}
    block = 0
    while True:
        yield from ((f"blocks.{block}.{name}", tensor) for name, tensor in floats.items())
        block += 1


def _noisy(tensor: Array, dtype: str, noise: np.random.Generator) -> bytes:
    scale = np.float32(float(tensor.std()) * _NOISE)
    made = tensor + noise.standard_normal(tensor.size, dtype=np.float32) * scale
    if dtype == "F32":
        return made.tobytes()
    # Rounded to the nearest: bf16 is the upper half of a float32.
    return ((made.view(np.uint32) + 0x8000) >> 16).astype("<u2").tobytes()
