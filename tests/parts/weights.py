"""Files of tensors in the format safetensors, with numbers that look like weights, the same in every run."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ITEM = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I8": 1, "F8_E4M3": 1}
"""Types that `weights` can make, and the bytes of a number."""

_DIFFERENT = 700_001
"""Numbers that are drawn; more than this are the same again, at other places of a frame."""


def weights(dtype: str, size: int, *, seed: int = 1) -> bytes:
    """*size* bytes of numbers of the type *dtype*, distributed as weights are."""
    count = -(-size // ITEM[dtype])
    numbers = np.random.default_rng(seed).normal(0, 0.04, min(count, _DIFFERENT)).astype(np.float32)
    return np.resize(_as(dtype, numbers), count).tobytes()[:size]


def _as(dtype: str, numbers: NDArray[np.float32]) -> NDArray[np.generic]:
    match dtype:
        case "BF16":
            return as_bfloat16(numbers)
        case "F8_E4M3":  # what is left of a float16 when its lowest byte is cut off, which is e5m2; as good for packing
            return (numbers.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8)
        case "I8":
            return (numbers * 300).astype(np.int8)
        case "I64":
            return (numbers * 1e5).astype(np.int64)
        case _:
            return numbers.astype({"F64": np.float64, "F32": np.float32, "F16": np.float16}[dtype])


def as_bfloat16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """*numbers* rounded to bfloat16, to even, as models are converted."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def safetensors(tensors: Mapping[str, tuple[str, bytes]], *, padded: bool = True) -> bytes:
    """A file that holds *tensors*, each of one type and so many bytes; the header not *padded* to a multiple of eight if not wanted."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, data) in tensors.items():
        shape = [len(data) // ITEM[dtype]]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 if padded else (-len(text) % 8) + 3)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values())


def model(dtype: str, size: int, *, seed: int = 1) -> bytes:
    """A file with one large tensor of about *size* bytes, and a small one."""
    return safetensors(
        {"layer.weight": (dtype, weights(dtype, size, seed=seed)), "layer.bias": ("F32", weights("F32", 4096))}
    )
