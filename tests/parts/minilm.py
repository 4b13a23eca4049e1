"""all-MiniLM-L6-v2 in plain numpy: what a restored snapshot is good for, without a gigabyte of torch."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

_erf = np.vectorize(math.erf, otypes=[np.float32])


def embed(snapshot: Path, sentence: str) -> Array:
    """The normalized embedding of *sentence* by the model whose files are in *snapshot*: mean of the last layer."""
    weights: dict[str, Array] = load_file(snapshot / "model.safetensors")
    config = json.loads((snapshot / "config.json").read_text())
    tokens = Tokenizer.from_file(str(snapshot / "tokenizer.json")).encode(sentence)
    ids = [token for token, real in zip(tokens.ids, tokens.attention_mask, strict=True) if real]
    hidden = (
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][: len(ids)]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    hidden = _normalized(hidden, weights, "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        hidden = _layer(hidden, weights, f"encoder.layer.{layer}", heads=config["num_attention_heads"])
    mean = hidden.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)


def _layer(hidden: Array, weights: dict[str, Array], name: str, *, heads: int) -> Array:
    query, key, value = (
        _linear(hidden, weights, f"{name}.attention.self.{part}").reshape(len(hidden), heads, -1).swapaxes(0, 1)
        for part in ("query", "key", "value")
    )
    scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    attended = (scores / scores.sum(axis=-1, keepdims=True) @ value).swapaxes(0, 1).reshape(hidden.shape)
    attended = _linear(attended, weights, f"{name}.attention.output.dense")
    hidden = _normalized(hidden + attended, weights, f"{name}.attention.output.LayerNorm")
    inner = _linear(hidden, weights, f"{name}.intermediate.dense")
    inner = inner * (1 + _erf(inner / math.sqrt(2))) / 2
    outer = _linear(inner, weights, f"{name}.output.dense")
    return _normalized(hidden + outer, weights, f"{name}.output.LayerNorm")


def _linear(hidden: Array, weights: dict[str, Array], name: str) -> Array:
    return hidden @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normalized(hidden: Array, weights: dict[str, Array], name: str) -> Array:
    centred = hidden - hidden.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-12)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"], dtype=np.float32)
