"""
The only module that makes archives which no honest program writes: what they try to do is said by their names.

Each is one change to an archive that is imported as it is. Most lie in their headers, some in what their own manifests promise.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from typing import TYPE_CHECKING, Any

import rfc8785
from attrs import evolve
from backports import zstd

from ci_modelcache.model.archive import Packed
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.oci_archive import BLOBS, INDEX, LAYOUT, oci_archive
from ci_modelcache.model.plain_archive import LEFT_OUT, SUMS, plain_archive
from ci_modelcache.model.tar import Member, header, padding, trailer
from tests.parts.archives import by_digest, members_of, oci_members, plain_members, tar_of
from tests.parts.snapshots import CONTENTS, manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Piece = tuple[bytes, bytes]
"""All headers of a member, and its content."""

MANIFEST = manifest_of()
FOLDER = f"huggingface.co/model/tiny/model/{MANIFEST.commit}"
WEIGHTS = CONTENTS["model.safetensors"]


def head(
    name: bytes,
    size: int = 0,
    kind: bytes = b"0",
    *,
    magic: bytes = b"ustar\x0000",
    link: bytes = b"",
    fields: dict[int, bytes] | None = None,
    checksum: bytes | None = None,
) -> bytes:
    """One header; *fields* are written over it, by their offsets, and the checksum is right unless one is given."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = magic
    for offset, field in (fields or {}).items():
        block[offset : offset + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block) if checksum is None else checksum
    return bytes(block)


def pax(data: bytes, kind: bytes = b"x") -> bytes:
    """A member that only tells of the next one."""
    return head(b"././@PaxHeader", len(data), kind) + data + padding(len(data))


def record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def gnu_long(name: bytes, kind: bytes = b"L", magic: bytes = b"ustar  \0") -> bytes:
    return head(b"././@LongLink", len(name), kind, magic=magic) + name + padding(len(name))


def oci() -> list[Piece]:
    return oci_members([Packed(MANIFEST, frozenset({"main"}))], CONTENTS)


def plain() -> list[Piece]:
    return plain_members([MANIFEST], CONTENTS)


BASES: dict[str, Callable[[], list[Piece]]] = {"oci": oci, "plain": plain}


def after_first(base: list[Piece], *more: Piece) -> bytes:
    return tar_of([base[0], *more, *base[1:]])


def at_end(base: list[Piece], *more: Piece) -> bytes:
    return tar_of([*base, *more])


def only(base: list[Piece]) -> bytes:
    """The members alone, without what ends an archive."""
    return b"".join(head + content + padding(len(content)) for head, content in base)


def replaced(base: list[Piece], number: int, new: Piece) -> bytes:
    return tar_of([*base[:number], new, *base[number + 1 :]])


def altered(base: list[Piece], name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The content of *name* changed, and its header made right."""
    found = []
    for old, content in base:
        mine = old[:100].rstrip(b"\0").decode() == name
        new = change(content) if mine else content
        found.append((header(Member(name, len(new))) if mine else old, new))
    assert [content for _, content in found] != [content for _, content in base]
    return tar_of(found)


def without(base: list[Piece], name: str) -> bytes:
    kept = [piece for piece in base if piece[0][:100].rstrip(b"\0").decode() != name]
    assert len(kept) == len(base) - 1
    return tar_of(kept)


def blob(data: bytes) -> str:
    return f"{BLOBS}{Digest.of(data)}"


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


# --- names

NAMES = {
    "parent": b"../evil",
    "absolute": b"/etc/passwd",
    "in-the-middle": b"a/../../evil",
    "dot-parent": b"./../evil",
    "dots": b"..",
    "dot": b".",
    "empty": b"",
    "empty-segment": b"blobs//sha256",
    "trailing-slash": b"file/",
    "backslash": b"..\\evil",
    "drive": b"C:\\evil",
    "share": b"\\\\host\\share",
    "device": b"CON",
    "newline": b"a\nb",
    "terminal": b"\x1b[2Jx",
    "latin-1": b"caf\xe9",
    "overlong-utf-8": b"..\xc0\xafevil",
    "surrogate": b"\xed\xa0\x80",
    "blob-parent": b"blobs/sha256/../../evil",
    "blob-upper-case": b"blobs/sha256/" + b"A" * 64,
    "blob-short": b"blobs/sha256/" + b"a" * 63,
    "blob-other-algorithm": b"blobs/sha512/" + b"a" * 64,
    "stray": b"README",
    "stray-blob": b"blobs/sha256/" + b"a" * 64,
    "own-marker": b"modelcache.json",
    "git": b".git/config",
    "tilde": b"~/.ssh/authorized_keys",
    "decomposed": "e\u0301".encode(),
}


def names() -> Iterator[tuple[str, bytes]]:
    for base, made in BASES.items():
        for what, name in NAMES.items():
            yield f"{base}-name-{what}", after_first(made(), (head(name, 4), b"evil"))
    folder = FOLDER.encode()
    yield "plain-name-case-collision", at_end(plain(), (head(folder + b"/CONFIG.json", 4), b"evil"))
    yield "plain-name-file-as-folder", at_end(plain(), (head(folder + b"/config.json/x", 4), b"evil"))
    yield "plain-name-beside-the-model", at_end(plain(), (head(folder + b"/more.bin", 4), b"evil"))
    yield "plain-name-other-manifest", at_end(plain(), (head(folder[:-1] + b"f.json", 2), b"{}"))
    yield "plain-prefix-parent", at_end(plain(), (head(b"evil", 4, fields={345: b"../.."}), b"evil"))
    yield "plain-folder-nowhere", at_end(plain(), (head(b"evil/", kind=b"5"), b""))
    yield "plain-folder-parent", at_end(plain(), (head(b"../", kind=b"5"), b""))
    yield "oci-folder", after_first(oci(), (head(b"blobs/", kind=b"5"), b""))
    yield (
        "oci-dot-prefix",
        tar_of([(head(b"./oci-layout", len(piece[1])), piece[1]) for piece in oci()[:1]] + oci()[1:]),
    )
    yield "plain-folder-with-content", at_end(plain(), (head(b"huggingface.co/", 4, b"5"), b"evil"))


# --- kinds of members

KINDS = {
    "old-file": b"\0",
    "hard-link": b"1",
    "symbolic-link": b"2",
    "character-device": b"3",
    "block-device": b"4",
    "fifo": b"6",
    "contiguous": b"7",
    "unknown": b"A",
    "gnu-dump": b"D",
    "gnu-long-link": b"K",
    "gnu-multivolume": b"M",
    "gnu-sparse": b"S",
    "gnu-volume": b"V",
    "global-pax": b"g",
    "solaris-pax": b"X",
}


def kinds() -> Iterator[tuple[str, bytes]]:
    for base, made in BASES.items():
        first = INDEX.encode() if base == "oci" else f"{FOLDER}/config.json".encode()
        for what, kind in KINDS.items():
            link = b"/etc/passwd" if what.endswith("-link") else b""
            yield f"{base}-kind-{what}", after_first(made(), (head(first, kind=kind, link=link), b""))
    whole = plain()
    number = next(number for number, piece in enumerate(whole) if b"empty.txt" in piece[0])
    for what, kind in KINDS.items():
        # Of the size and the content that it should have: nothing but its kind tells.
        name = whole[number][0][:100].rstrip(b"\0")
        yield f"plain-empty-file-as-{what}", replaced(whole, number, (head(name, kind=kind), b""))
    yield "oci-link-in-place-of-index", replaced(oci(), 1, (head(b"index.json", kind=b"2", link=b"../../x"), b""))
    yield "plain-file-with-link-target", at_end(plain(), (head(b"x", 4, link=b"/etc/passwd"), b"evil"))


# --- headers and ends


def headers() -> Iterator[tuple[str, bytes]]:
    good = oci()
    name, layout = LAYOUT.encode(), good[0][1]
    size = len(layout)

    def first(**changes: Any) -> bytes:
        return replaced(good, 0, (head(name, size, **changes), layout))

    yield "checksum-wrong", first(checksum=b"000001\0 ")
    yield "checksum-empty", first(checksum=b"\0" * 8)
    yield "checksum-no-number", first(checksum=b"abcdef\0 ")
    yield "size-no-number", first(fields={124: b"12x45678901\0"})
    yield "size-negative", first(fields={124: b"-0000000001\0"})
    yield "size-base-256-in-posix", first(fields={124: b"\x80" + size.to_bytes(11)})
    yield "size-base-256-negative", first(magic=b"ustar  \0", fields={124: b"\xff" * 12})
    yield "size-base-256-exabytes", first(magic=b"ustar  \0", fields={124: b"\x80" + (1 << 60).to_bytes(11)})
    yield "size-more-than-there-is", first(fields={124: b"77777777777\0"})
    yield "size-less-than-there-is", first(fields={124: b"%011o\0" % (size - 1)})
    yield "size-a-block-more", first(fields={124: b"%011o\0" % (size + 512)})
    yield "mode-no-number", first(fields={100: b"rw-r--r-"})
    yield "time-no-number", first(fields={136: b"yesterday!!\0"})
    yield "magic-none", first(magic=b"\0" * 8)
    yield "magic-other", first(magic=b"ustar\x0001")
    yield "name-hidden-behind-zero", first(fields={20: b"evil"})
    yield "header-hidden-bytes", first(fields={504: b"evil"})
    yield "gnu-prefix-field", first(magic=b"ustar  \0", fields={345: b"evil"})
    yield "padding-hidden-bytes", only(good[:1])[:-4] + b"evil" + tar_of(good[1:])
    yield "twice", tar_of([good[0], good[1], good[1], *good[2:]])
    yield "blob-twice", tar_of([*good, good[-1]])
    yield "file-and-folder", at_end(plain(), (head(f"{FOLDER}/config.json/".encode(), kind=b"5"), b""))
    yield "plain-twice-other-content", at_end(plain(), (head(f"{FOLDER}/config.json".encode(), 4), b"evil"))
    yield "plain-twice-by-dot", at_end(plain(), (head(f"./{FOLDER}/config.json".encode(), 4), b"evil"))
    body = only(good)
    yield "end-missing", body
    yield "end-one-block", body + bytes(512)
    yield "end-one-block-then-more", body + bytes(512) + tar_of(good)
    yield "end-then-junk", body + trailer(len(body)) + b"junk"
    yield "end-then-another-archive", tar_of(good) + tar_of(plain())
    yield "end-of-zeros", body + bytes(3 << 20)
    yield "nothing", b""
    yield "zeros", bytes(10_240)
    yield "a-block-of-zeros", bytes(512)
    yield "noise", random.Random(6).randbytes(20_000)
    yield "text", b"#!/bin/sh\nrm -rf /\n" * 100
    for at in (1, 100, 511, 512, 600, 1024, 1500, 3000, len(body) // 2, len(body) - 513, len(body) - 1):
        yield f"broken-off-at-{at}", body[:at]


# --- pax records and long names


def records() -> Iterator[tuple[str, bytes]]:
    for what, data in {
        "unknown": record(b"evil", b"1"),
        "link": record(b"linkpath", b"/etc/passwd"),
        "sparse": record(b"GNU.sparse.major", b"1"),
        "sparse-name": record(b"GNU.sparse.name", b"../evil"),
        "sparse-size": record(b"GNU.sparse.realsize", b"1000000000000"),
        "charset": record(b"hdrcharset", b"BINARY"),
        "attribute": record(b"SCHILY.xattr.user.x", b"1"),
        "size-other": record(b"size", b"5"),
        "size-negative": record(b"size", b"-4"),
        "size-float": record(b"size", b"4.0"),
        "size-leading-zero": record(b"size", b"04"),
        "size-plus": record(b"size", b"+4"),
        "size-astronomic": record(b"size", b"9" * 18),
        "size-endless": record(b"size", b"9" * 5000),
        "path-parent": record(b"path", b"../evil"),
        "path-absolute": record(b"path", b"/etc/passwd"),
        "path-zero": record(b"path", b"a\0b"),
        "path-empty": record(b"path", b""),
        "path-no-text": record(b"path", b"\xff\xfe"),
        "path-endless": record(b"path", b"a" * 5000),
        "length-wrong": b"30 path=x\n",
        "length-zero": b"0 path=x\n",
        "length-negative": b"-9 path=x\n",
        "length-missing": b"path=x\n",
        "length-huge": b"999999999 path=x\n",
        "length-endless": b"9" * 1000 + b" path=x\n",
        "no-line-break": b"9 path=xx",
        "no-equals": b"8 pathx\n",
        "twice": record(b"path", b"x") * 2,
        "too-many": record(b"mtime", b"1") * 10_000,
    }.items():
        yield f"pax-{what}", after_first(plain(), (pax(data) + head(b"x", 4), b"evil"))
        whole = plain()
        yield f"pax-right-file-{what}", replaced(whole, 2, (pax(data) + whole[2][0], whole[2][1]))
    whole = plain()
    real = record(b"path", whole[2][0][:100].rstrip(b"\0"))
    yield "pax-right-path-twice", replaced(whole, 2, (pax(real * 2) + whole[2][0], whole[2][1]))
    for what, size in {
        "beyond-belief": b"9" * 18,
        "of-a-petabyte": b"%d" % (1 << 50),
        "more-than-there-is": b"100000",
    }.items():
        yield f"pax-size-{what}", after_first(plain(), (pax(record(b"size", size)) + head(b"x"), b"evil"))
    data = record(b"mtime", b"1")
    yield "pax-pax", after_first(plain(), (pax(data) + pax(data) + head(b"x", 4), b"evil"))
    yield "pax-of-nothing", only(plain()) + pax(data) + bytes(10_240)
    yield "pax-at-the-end", only(plain()) + pax(data)
    good = oci()
    yield "pax-time-in-oci", replaced(good, 0, (pax(data) + good[0][0], good[0][1]))
    long_name = b"a" * 200
    for what, data in {
        "in-posix": gnu_long(long_name, magic=b"ustar\x0000"),
        "parent": gnu_long(b"../evil\0"),
        "inner-zero": gnu_long(b"a\0/../../evil\0"),
        "endless": gnu_long(b"a" * 5000),
        "empty": gnu_long(b""),
        "twice": gnu_long(long_name) * 2,
        "with-pax": gnu_long(long_name) + pax(record(b"path", b"x")),
        "link": gnu_long(b"/etc/passwd\0", kind=b"K"),
    }.items():
        yield f"gnu-long-name-{what}", after_first(plain(), (data + head(b"x", 4, magic=b"ustar  \0"), b"evil"))


# --- packed otherwise


def packed() -> Iterator[tuple[str, bytes]]:
    good = tar_of(oci())
    whole = zstd.compress(good)
    yield "zstd-broken-off", whole[:-10]
    yield "zstd-altered", whole[: len(whole) // 2] + flip(whole[len(whole) // 2 :])
    yield "zstd-then-junk", whole + b"junk!"
    yield "zstd-of-nothing", zstd.compress(b"")
    yield "zstd-of-noise", zstd.compress(random.Random(7).randbytes(2000))
    yield "zstd-only-skipped", b"\x5e\x2a\x4d\x18\x04\0\0\0evil"
    yield "zstd-in-zstd", zstd.compress(whole)
    yield "zstd-then-hidden-archive", whole + zstd.compress(tar_of(plain()))
    checked = zstd.compress(good, options={zstd.CompressionParameter.checksum_flag: 1})
    yield "zstd-checksum", checked[:-1] + bytes([checked[-1] ^ 1])
    large, unsized = zstd.CompressionParameter.window_log, zstd.CompressionParameter.content_size_flag
    compressor = zstd.ZstdCompressor(options={large: 30, unsized: 0})
    yield "zstd-window-of-a-gigabyte", compressor.compress(good) + compressor.flush()
    yield "gzip", gzip.compress(good)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../evil", b"evil")
    yield "zip", archive.getvalue()


# --- contents that are not what they are said to be


def contents() -> Iterator[tuple[str, bytes]]:
    weights, manifest = blob(WEIGHTS), f"{BLOBS}{MANIFEST.digest}"
    good = oci()
    index = json.loads(good[1][1])
    image = "blobs/" + index["manifests"][0]["digest"].replace(":", "/")
    config = CONTENTS["config.json"]
    yield "oci-file-altered", altered(good, weights, flip)
    yield "oci-file-shorter", altered(good, weights, lambda data: data[:-1])
    yield "oci-file-longer", altered(good, weights, lambda data: data + b"x")
    yield "oci-file-missing", without(good, weights)
    yield "oci-small-file-altered", altered(good, blob(config), flip)
    yield "oci-manifest-altered", altered(good, manifest, lambda data: data.replace(b"config.json", b"configs.jso"))
    yield "oci-manifest-missing", without(good, manifest)
    yield "oci-image-altered", altered(good, image, lambda data: data.replace(b"config.json", b"configs.jso"))
    yield "oci-image-missing", without(good, image)
    yield "oci-layout-missing", without(good, LAYOUT)
    yield "oci-layout-other", altered(good, LAYOUT, lambda data: data.replace(b"1.0.0", b"1.0.1"))
    yield "oci-index-missing", without(good, INDEX)
    yield "oci-index-no-json", altered(good, INDEX, lambda data: data[:-1])
    yield "oci-index-nested", altered(good, INDEX, lambda _data: b"[" * 100_000)
    yield "oci-index-spaces", altered(good, INDEX, lambda data: data + b" ")
    yield "oci-index-twice-the-member", altered(good, INDEX, lambda data: data[:-1] + b',"schemaVersion":2}')
    yield "oci-index-empty", altered(good, INDEX, lambda _data: rfc8785.dumps({**index, "manifests": []}))
    for what, change in _INDEXES.items():
        yield f"oci-index-{what}", altered(good, INDEX, lambda data, change=change: changed(data, change))  # type: ignore[misc]  # bound at once
    document = f"{FOLDER}.json"
    whole = plain()
    yield "plain-file-altered", altered(whole, f"{FOLDER}/model.safetensors", flip)
    yield "plain-file-shorter", altered(whole, f"{FOLDER}/model.safetensors", lambda data: data[:-1])
    yield "plain-file-missing", without(whole, f"{FOLDER}/model.safetensors")
    yield "plain-manifest-altered", altered(whole, document, lambda data: data.replace(b"config.json", b"configs.jso"))
    yield "plain-manifest-missing", without(whole, document)
    yield "plain-sums-missing", without(whole, SUMS)
    yield "plain-sums-altered", altered(whole, SUMS, flip)
    yield "plain-sums-shorter", altered(whole, SUMS, lambda data: data[data.index(b"\n") + 1 :])
    yield "plain-sums-longer", altered(whole, SUMS, lambda data: data + b"a" * 64 + b"  ../evil\n")
    yield "plain-sums-twice", altered(whole, SUMS, lambda data: data * 2)
    yield "plain-sums-binary", altered(whole, SUMS, lambda data: data.replace(b"  ", b" *"))
    yield "plain-sums-empty", altered(whole, SUMS, lambda _data: b"")
    yield "plain-lies-of-a-delta", at_end(whole, (head(LEFT_OUT.encode(), 0), b""))
    yield (
        "plain-delta-of-another",
        tar_of([piece for piece in whole if WEIGHTS not in piece] + [(head(LEFT_OUT.encode(), 4), b"evil")]),
    )


def changed(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The JSON object *data* after *change*."""
    plain = json.loads(data)
    change(plain)
    return rfc8785.dumps(plain)


def _annotate(**annotations: str) -> Callable[[dict[str, Any]], object]:
    named = {f"io.ci-modelcache.{key}": value for key, value in annotations.items()}
    return lambda index: index["manifests"][0]["annotations"].update(named)


_INDEXES: dict[str, Callable[[dict[str, Any]], object]] = {
    "other-repository": _annotate(ref=f"huggingface.co/model/tiny/other@{MANIFEST.commit}/all"),
    "other-commit": _annotate(ref=f"huggingface.co/model/tiny/model@{'f' * 40}/all"),
    "repository-parent": _annotate(ref=f"huggingface.co/model/../..@{MANIFEST.commit}/all"),
    "host-parent": _annotate(ref=f"../model/tiny/model@{MANIFEST.commit}/all"),
    "no-type": _annotate(ref=f"huggingface.co/evil/tiny/model@{MANIFEST.commit}/all"),
    "no-ref": _annotate(ref=""),
    "revision-parent": _annotate(revisions="../../evil"),
    "revision-empty": _annotate(revisions="a  b"),
    "revisions-unsorted": _annotate(revisions="b a"),
    "since-nothing": lambda index: index.update(annotations={"io.ci-modelcache.since": "a" * 64}),
    "size": lambda index: index["manifests"][0].update(size=1),
    "size-negative": lambda index: index["manifests"][0].update(size=-1),
    "digest-of-another": lambda index: index["manifests"][0].update(digest=f"sha256:{'a' * 64}"),
    "digest-parent": lambda index: index["manifests"][0].update(digest="sha256:../../../evil"),
    "digest-md5": lambda index: index["manifests"][0].update(digest=f"md5:{'a' * 32}"),
    "more-fields": lambda index: index.update(evil=1),
    "twice-the-snapshot": lambda index: index["manifests"].append(index["manifests"][0]),
    "urls": lambda index: index["manifests"][0].update(urls=["http://evil/"]),
}


# --- manifests that are themselves hostile, in archives where everything else follows from them


def _file(**change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda plain: plain["files"][0].update(change)


PATHS = {
    "parent": "../evil",
    "absolute": "/etc/passwd",
    "backslash": "..\\evil",
    "drive": "C:evil",
    "device": "aux.json",
    "git": ".git/config",
    "own": ".ci-modelcache/x",
    "zero": "a\0b",
    "newline": "a\nb",
    "space-at-the-end": "evil ",
    "case-collision": "MODEL.safetensors",
    "duplicate": "model.safetensors",
    "folder-of-another": "onnx",
    "decomposed": "e\u0301",
    "long": "a" * 300,
    "empty": "",
}
MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    **{f"path-{what}": _file(path=path) for what, path in PATHS.items()},
    "size-negative": _file(size=-1),
    "size-of-another": _file(size=7),
    "size-text": _file(size="23"),
    "size-petabytes": _file(size=1 << 51),
    "leaves-of-a-small-file": _file(leaves="a" * 64),
    "no-digest": _file(sha256="a"),
    "git-name": _file(git_oid="../evil"),
    "more-fields": _file(evil=1),
    "repository": lambda plain: plain.update(repo="../../evil"),
    "host": lambda plain: plain.update(host="a/../.."),
    "commit": lambda plain: plain.update(commit="main"),
    "selection": lambda plain: plain.update(selection="../all"),
    "type": lambda plain: plain.update(type="evil"),
    "files-of-nothing": lambda plain: plain.update(files=[None]),
    "files-text": lambda plain: plain.update(files="config.json"),
    "no-files": lambda plain: plain.pop("files"),
}


LIES: dict[str, dict[str, Any]] = {"size": {"size": 22}, "digest": {"sha256": Digest("a" * 64)}}
"""What a manifest that breaks no rule says of ``config.json``, and is not so."""


def manifests() -> Iterator[tuple[str, bytes]]:
    for what, change in MANIFESTS.items():
        document = changed(MANIFEST.to_json(), change)
        yield f"oci-manifest-{what}", _oci_around(document)
        yield f"plain-manifest-{what}", _plain_around(document)
    for what, lie in LIES.items():
        lying = evolve(MANIFEST, files=(evolve(MANIFEST.files[0], **lie), *MANIFEST.files[1:]))
        named = by_digest(CONTENTS) | {lying.files[0].sha256: CONTENTS["config.json"][: lying.files[0].size]}
        packed = [Packed(lying, frozenset({"main"}))]
        yield f"oci-lie-{what}", tar_of(members_of(oci_archive(packed, {}), named))
        yield f"plain-lie-{what}", tar_of(members_of(plain_archive([lying]), named))
    spaced = json.dumps(json.loads(MANIFEST.to_json())).encode()
    yield "oci-manifest-not-canonical", _oci_around(spaced)
    yield "plain-manifest-not-canonical", _plain_around(spaced)


def _oci_around(document: bytes) -> bytes:
    """The OCI archive in which the manifest is *document*, every digest in it right."""
    members = {piece[0][:100].rstrip(b"\0").decode(): piece[1] for piece in oci()}
    old, new = MANIFEST.digest.hex, Digest.of(document).hex
    index = json.loads(members.pop(INDEX))
    layout = members.pop(LAYOUT)
    named = "blobs/" + index["manifests"][0]["digest"].replace(":", "/")
    image = json.loads(members.pop(named))
    config = members.pop("blobs/" + image["config"]["digest"].replace(":", "/")).replace(old.encode(), new.encode())
    members.pop(f"{BLOBS}{old}")
    image["config"].update(digest=f"sha256:{Digest.of(config)}", size=len(config))
    image["layers"][0].update(digest=f"sha256:{new}", size=len(document))
    made = rfc8785.dumps(image)
    index["manifests"][0].update(digest=f"sha256:{Digest.of(made)}", size=len(made))
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = new
    blobs = {**members, **{blob(data): data for data in (document, config, made)}}
    ordered = [(LAYOUT, layout), (INDEX, rfc8785.dumps(index)), *sorted(blobs.items())]
    return tar_of((header(Member(path, len(data))), data) for path, data in ordered)


def _plain_around(document: bytes) -> bytes:
    """The plain archive in which the manifest is *document*, every sum in it right, with the file that it may have renamed."""
    named = by_digest(CONTENTS)
    members = {f"{FOLDER}.json": document}
    plain = json.loads(document)
    files = plain.get("files")
    for file in files if isinstance(files, list) else []:
        if file is not None and file["sha256"] in {digest.hex for digest in named}:
            members[f"{FOLDER}/{file['path']}"] = named[Digest(file["sha256"])]
    lines = "".join(f"{Digest.of(data)}  {path}\n" for path, data in sorted(members.items())).encode()
    pieces = [(_any(SUMS, len(lines)), lines)]
    pieces += [(_any(path, len(data)), data) for path, data in sorted(members.items())]
    return tar_of(pieces)


def _any(path: str, size: int) -> bytes:
    name = path.encode()
    return head(name, size) if len(name) <= 100 else pax(record(b"path", name)) + head(name[:100], size)  # of the field


def corpus() -> dict[str, bytes]:
    """Every hostile archive, by what it tries."""
    found = [each for family in (names, kinds, headers, records, packed, contents, manifests) for each in family()]
    made = dict(found)
    assert len(made) == len(found)
    return made
