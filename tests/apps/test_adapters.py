"""The adapter study: the encoder against NumPy on a small model, its files, its words; the real model where it is installed."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import thalweg as tw
from thalweg.apps.adapters import Encoder, FollowOn, load, pairs, tokenise
from thalweg.apps.adapters.minilm import PACKAGE, read_safetensors

WIDTH, HEADS, LAYERS = 8, 2, 2
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "to", "be", "or", "not", "##ing", ",", "question"]


def small(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: 0.5 * rng.standard_normal(shape)
    affine = lambda rows, columns: {"weight": draw(rows, columns), "bias": draw(rows)}
    norm = lambda: {"weight": 1 + draw(WIDTH), "bias": draw(WIDTH)}
    layer = lambda: {
        **{name: affine(WIDTH, WIDTH) for name in ("query", "key", "value", "attention_output")},
        "intermediate": affine(16, WIDTH), "output": affine(WIDTH, 16), "attention_norm": norm(), "output_norm": norm(),
    }  # fmt: skip
    sizes = {"word_embeddings": 11, "position_embeddings": 9, "token_type_embeddings": 2}
    embeddings = {name: draw(size, WIDTH) for name, size in sizes.items()} | {"LayerNorm": norm()}
    return {"embeddings": embeddings, "layers": {str(i): layer() for i in range(LAYERS)}}


def by_numpy(p, tokens):
    """The encoder without padding, head by head."""
    norm = lambda x, q: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * q["weight"] + q["bias"]
    affine = lambda q, x: x @ q["weight"].T + q["bias"]
    e = p["embeddings"]
    x = e["word_embeddings"][tokens] + e["position_embeddings"][: len(tokens)] + e["token_type_embeddings"][0]
    x = norm(x, e["LayerNorm"])
    for layer in p["layers"].values():
        q, k, v = (affine(layer[name], x) for name in ("query", "key", "value"))
        parts = [slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS) for h in range(HEADS)]
        mixed = [scipy.special.softmax(q[:, s] @ k[:, s].T / np.sqrt(WIDTH / HEADS), axis=1) @ v[:, s] for s in parts]
        x = norm(x + affine(layer["attention_output"], np.hstack(mixed)), layer["attention_norm"])
        inner = affine(layer["intermediate"], x)
        x = norm(x + affine(layer["output"], inner * scipy.special.ndtr(inner)), layer["output_norm"])
    return x.mean(0) / np.linalg.norm(x.mean(0))


def test_the_encoder_agrees_with_numpy_and_ignores_padding():
    params, tokens = small(), np.array([2, 4, 5, 9, 3])
    padded, mask = np.array([*tokens, 0, 0]), np.array([1.0] * 5 + [0, 0])
    found = Encoder(LAYERS, HEADS)(jax.tree.map(jnp.asarray, params), (padded, mask))
    np.testing.assert_allclose(found, by_numpy(params, tokens), rtol=1e-10)


def test_words_become_pieces():
    tokens, mask = tokenise(["To be, or NOT being", "unknown Question"], VOCABULARY, 9)
    assert [VOCABULARY[t] for t in tokens[0]] == ["[CLS]", "to", "be", ",", "or", "not", "be", "##ing", "[SEP]"]
    assert [VOCABULARY[t] for t in tokens[1][:4]] == ["[CLS]", "[UNK]", "question", "[SEP]"]
    np.testing.assert_array_equal(mask.sum(1), [9, 4])
    assert VOCABULARY[tokenise(["to be or not"], VOCABULARY, 4)[0][0][-1]] == "[SEP]"


def test_tensors_are_read_from_their_file(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([7], np.int64)}
    header, place = {"__metadata__": {}}, 0
    for name, array in arrays.items():
        kind = {"float32": "F32", "int64": "I64"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values()))
    found = read_safetensors(file)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.slow
def test_adapters_of_a_small_encoder_are_trained_and_merge():
    lines = ["to be", "or not", "to be or", "question to", "not being", "be question", "or or", "to not be"]
    (first, second), label = pairs(lines, VOCABULARY, 6, seed=0)
    assert label.mean() == pytest.approx(4 / 7)
    tokens = tokenise(lines, VOCABULARY, 6)[0]
    np.testing.assert_array_equal(first[0], tokens[:-1])
    np.testing.assert_array_equal(second[0][label == 1], tokens[1::2])
    params = jax.tree.map(jnp.asarray, small())
    adapters = tw.models.lora(
        params, 2, lambda path, leaf: path.endswith(("query/weight", "value/weight")), key=jax.random.key(0)
    )
    loss, x0 = FollowOn(Encoder(LAYERS, HEADS)), {"adapters": adapters, "scale": np.array(5.0), "bias": np.array(-1.0)}
    problem = tw.EmpiricalRisk(loss, [((first, second), label)] * 2, x0, frozen=params)
    result = tw.solve(problem, tw.FineTune(tw.LocalSGD(0.3, steps=5)), rounds=20, every=20)
    assert float(problem.objective(result.x)) < 0.8 * float(problem.objective(x0))
    merged = tw.models.merge(params, result.x["adapters"])
    text = (first[0][0], first[1][0])
    attached = tw.models.attach(params, result.x["adapters"])
    np.testing.assert_allclose(loss.encoder(merged, text), loss.encoder(attached, text), rtol=1e-9)
    with pytest.raises(ValueError, match="expected at least 4"):
        pairs(lines[:3], VOCABULARY, 6, seed=0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="the pretrained model is not installed")
def test_the_real_model_knows_a_paraphrase():
    encoder, params, vocabulary = load()
    texts = ["A man is eating food.", "Someone is having a meal.", "The stock market fell sharply today."]
    found = np.asarray(jax.jit(jax.vmap(encoder, (None, 0)))(params, tokenise(texts, vocabulary, 12)))
    similar = found @ found.T
    assert similar[0, 1] == pytest.approx(0.69, abs=0.01)
    assert abs(similar[0, 2]) < 0.09 and abs(similar[1, 2]) < 0.09
