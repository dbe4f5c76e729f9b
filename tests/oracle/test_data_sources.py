"""Memory-mapped and generated sources give what `EmpiricalRisk` would hold."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thalweg.data as td
from thalweg.problem.empirical_risk import pad_agents


def agents(counts, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "x": (rng.normal(size=(m, 2, 3)).astype(np.float32), rng.integers(0, 255, m, dtype=np.uint8)),
            "a": [rng.normal(size=m)],
        }
        for m in counts
    ]


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=7), data=st.data())
def test_what_is_fetched_is_padded_as_in_empirical_risk(tmp_path_factory, counts, data):
    written = agents(counts)
    source = td.write_memory_mapped(tmp_path_factory.mktemp("mapped") / "clients", iter(written))
    padded, expected = pad_agents(written, None)
    assert (source.n, source.longest, source.counts.tolist()) == (len(counts), max(counts), counts)
    ids = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=9))
    fetched, held = source.fetch(ids)
    np.testing.assert_array_equal(held, expected[ids])
    assert jax.tree.structure(fetched) == jax.tree.structure(padded)
    for got, whole in zip(jax.tree.leaves(fetched), jax.tree.leaves(padded), strict=True):
        assert got.dtype == whole.dtype
        np.testing.assert_array_equal(got, whole[ids])


def test_federated_data_can_be_written_and_opened_again(tmp_path):
    data = td.heart_disease()
    td.write_memory_mapped(tmp_path / "hearts", data.train)
    source = td.MemoryMapped(tmp_path / "hearts")
    (features, _), counts = source.fetch([3])
    np.testing.assert_array_equal(features[0, : counts[0]], data.train[3][0])
    assert sorted(path.name for path in (tmp_path / "hearts").iterdir()) == ["0.npy", "1.npy", "offsets.npy", "tree.json"]
    assert np.load(tmp_path / "hearts" / "0.npy").shape == (data.sizes.sum(), data.d)


def test_neither_writing_nor_reading_holds_it_all(tmp_path):
    """64 MB are written and read with less than 8 MB in hand."""
    block = np.random.default_rng(0).normal(size=(1000, 100))
    tracemalloc.start()
    source = td.write_memory_mapped(tmp_path / "large", (block + i for i in range(80)))
    for ids in ([0, 1], [78, 79]):
        np.testing.assert_array_equal(source.fetch(ids)[0][1], block + ids[1])
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()


def test_an_error_leaves_nothing_behind(tmp_path):
    def broken():
        yield np.ones((2, 1))
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        td.write_memory_mapped(tmp_path / "clients", broken())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("written", "kind", "message"),
    [
        ([], ValueError, "got no agents"),
        ([np.ones((2, 1)), np.ones((0, 1))], ValueError, r"agent 1: got .* lengths \{0\}"),
        ([(np.ones(2), np.ones(3))], ValueError, "agent 0: got .* one number of examples"),
        ([np.ones(2), (np.ones(2),)], ValueError, "agent 1: got {'tuple': "),
        (
            [np.ones((2, 1)), np.ones((2, 2))],
            ValueError,
            r"agent 1: got an array of float64\[2, 2\], expected float64\['any', 1\]",
        ),
        ([np.ones(2), np.ones(2, np.float32)], ValueError, "agent 1: got an array of float32"),
        ([np.ones(2), np.array([1, np.nan])], ValueError, "agent 1: got NaN or infinite"),
        ([3.0], ValueError, r"agent 0: got 0.npy with lengths \{None\}"),
        ([{"text": np.array(["a"])}], TypeError, "got a ndarray in the pytree"),
    ],
)
def test_what_cannot_be_written(tmp_path, written, kind, message):
    with pytest.raises(kind, match=message):
        td.write_memory_mapped(tmp_path / "clients", written)
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tree.json .* write_memory_mapped"):
        td.MemoryMapped(tmp_path)
    source = td.write_memory_mapped(tmp_path / "clients", agents([2, 3]))
    with pytest.raises(FileExistsError, match="exists; remove it"):
        td.write_memory_mapped(tmp_path / "clients", agents([2]))
    for ids in ([2], [-1], [0.5], 1, []):
        with pytest.raises(ValueError, match="fetch: got"):
            source.fetch(ids)
    assert json.loads((tmp_path / "clients" / "tree.json").read_text())["dict"]["a"] == {"list": ["0.npy"]}
    np.save(tmp_path / "clients" / "offsets.npy", np.array([0, 2, 6]))
    with pytest.raises(ValueError, match="got 5 rows, expected 6"):
        td.MemoryMapped(tmp_path / "clients")


def made(id):
    key = jax.random.fold_in(jax.random.key(0), id)
    return {"x": jax.random.normal(key, (4, 2)) + id, "y": jnp.arange(4) + id}


def test_generated_examples_depend_on_the_id_alone():
    source = td.Generated(made, n=1_000_000, count=4)
    assert (source.n, source.counts, source.longest) == (1_000_000, 4, 4)
    ids = np.array([999_999, 3, 3, 500])
    examples, counts = source.fetch(ids)
    assert counts.tolist() == [4] * 4
    for row, i in enumerate(ids):
        np.testing.assert_array_equal(examples["x"][row], made(i)["x"])
        np.testing.assert_array_equal(examples["y"][row], np.arange(4) + i)
    inside, _ = jax.jit(source.fetch)(ids)
    np.testing.assert_array_equal(inside["x"], examples["x"])


def test_both_are_sources(tmp_path):
    written = td.write_memory_mapped(tmp_path / "clients", (jax.device_get(made(i)) for i in range(5)))
    generated = td.Generated(made, 5, 4)
    assert isinstance(written, td.Source)
    assert isinstance(generated, td.Source)
    for a, b in zip(*(jax.tree.leaves(source.fetch([4, 1])) for source in (written, generated)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_generators_that_cannot_be():
    with pytest.raises(TypeError, match="Generated function: got int"):
        td.Generated(3, 1, 1)
    with pytest.raises(ValueError, match=r"got arrays of shapes \[\(4, 2\), \(4,\)\], expected a leading axis of 5"):
        td.Generated(made, 10, 5)
    with pytest.raises(ValueError, match="Generated n: got 0"):
        td.Generated(made, 0, 4)
    with pytest.raises(ValueError, match=r"fetch: got ids .* from 0 to 9"):
        td.Generated(made, 10, 4).fetch([10])
