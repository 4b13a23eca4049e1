"""
The golden packed file, ``tests/golden/encoding/tiny.bgz1``. It must stay readable for ever, so it is never made anew by a test.

To change the encoding on purpose, with a new name: ``python -m tests.parts.golden_encoding``. Versions of zstd pack differently, and all of them
are right: what is compared is what comes out.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from ci_modelcache.transfer.bytegroup import FRAME
from ci_modelcache.transfer.packing import Packer

GOLDEN = Path(__file__).parent.parent / "golden" / "encoding" / "tiny.bgz1"
"""A file in which every way occurs: numbers of 1, 2, 4 and 8 bytes, zeros, a plain frame, a last frame that is short and odd."""


def content() -> bytes:
    """What is in it: numbers that follow from their place."""
    parts = {
        "two": ("BF16", b"".join(struct.pack("<H", 0x3F00 + number * number % 251) for number in range(FRAME // 2))),
        "four": ("F32", b"".join(struct.pack("<I", 0x3F000000 + number * 8) for number in range(FRAME // 4))),
        "eight": ("I64", b"".join(struct.pack("<Q", number * number) for number in range(FRAME // 8))),
        "one": ("U8", bytes(number * number % 7 for number in range(FRAME))),
        "zeros": ("F16", bytes(2 * FRAME)),
        "odd": ("I8", hashlib.shake_256(b"odd").digest(1001)),
    }
    offset, entries = 0, []
    for name, (dtype, data) in parts.items():
        entries.append(f'"{name}":{{"dtype":"{dtype}","shape":[],"data_offsets":[{offset},{offset + len(data)}]}}')
        offset += len(data)
    header = ("{" + ",".join(entries) + "}").encode()
    return struct.pack("<Q", len(header)) + header + b"".join(data for _, data in parts.values())


if __name__ == "__main__":
    made = content()
    with Packer(Path("/tmp")).kept([made], len(made)) as kept:
        GOLDEN.write_bytes(b"".join(kept.chunks))
