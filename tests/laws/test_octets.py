"""Payloads at the edge of compiled code are those of `pack`, whatever stands in them, and wherever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.deploy.compiled import Compiled, Kept
from thalweg.deploy.octets import Form, pack_rows
from thalweg.message.payload import pack, payload_bytes, unpack

DTYPES = ["float32", "float64", "float16", "bfloat16", "int8", "int32", "uint8", "uint16", "uint32", "int64", "bool"]
SHAPES = st.lists(st.integers(0, 3), max_size=2).map(tuple)


@st.composite
def messages(draw):
    """Arrays of all kinds, most of them not where their kind would stand by itself."""
    leaves = draw(st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = [
        np.asarray(random.integers(0, 2, shape) if kind == "bool" else random.normal(0, 50, shape)) for kind, shape in leaves
    ]
    return {f"{i}": value.astype(jnp.dtype(kind)) for i, (value, (kind, _)) in enumerate(zip(values, leaves, strict=True))}


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@given(messages())
@settings(max_examples=200, deadline=None)
def test_what_was_packed_is_read(message):
    form, octets = Form(message), np.frombuffer(pack(message) + b"tail", np.uint8)[:-4]
    assert form.size == payload_bytes(message) == len(octets)
    read = form.read(octets)
    same(read.tree, message)
    assert pack(read.leaves) == octets.tobytes()
    same(unpack(octets.tobytes(), message), message)


@given(messages(), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_rows_are_read_as_one_by_one(message, rows):
    form = Form(message)
    octets = np.stack([np.frombuffer(pack(message), np.uint8)] * rows) if rows else np.zeros((0, form.size), np.uint8)
    read = form.read(octets)
    same(
        read.tree,
        jax.tree.map(lambda leaf: np.stack([leaf] * rows) if rows else np.zeros((0, *leaf.shape), leaf.dtype), message),
    )
    assert pack_rows(read, range(rows)) == [pack(message)] * rows


def test_compiled_code_gets_the_numbers_wherever_they_stand():
    """Arrays that do not begin at a multiple of their size, and columns of a matrix of payloads."""
    message = {"a": np.array([1, 2, 3], np.uint8), "b": np.arange(4.0), "c": np.array([True]), "d": np.float32(0.1)}
    payload = np.frombuffer(pack(message), np.uint8)
    form, through = Form(message), Compiled(lambda executor, told: Kept(told), deterministic=False)
    same(through(form.read(payload)).tree, message)
    twice = through(form.read(np.stack([payload, payload])))
    assert pack_rows(twice, range(2)) == [payload.tobytes()] * 2


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_seen_at_its_place(kind, bad):
    message = {"a": np.array([255] * 3, np.uint8), "b": np.array([1.0, bad]).astype(jnp.dtype(kind))}
    form = Form(message)
    assert not form.finite(np.frombuffer(pack(message), np.uint8))
    assert form.finite(np.frombuffer(pack(message | {"b": np.ones_like(message["b"])}), np.uint8))
