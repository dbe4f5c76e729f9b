"""Records on disk against a dict; streamed clients against the same in memory; runs that are continued after a crash.

Axes: `n` clients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import servers
import thalweg as tw
from thalweg.engine import checkpoint, driver
from thalweg.engine.store import Store

N = 7
SPEC = {"a": jax.ShapeDtypeStruct((2,), jnp.float64), "b": jax.ShapeDtypeStruct((), jnp.int32)}


def test_a_store_is_a_dict_that_can_go_back(tmp_path):
    rng = np.random.default_rng(0)
    store, now, past, k, safe = Store(tmp_path, SPEC, N), {}, {}, 0, 0
    for _ in range(150):
        action = rng.choice(["put", "put", "put", "back", "commit", "reopen"])
        if action == "put":
            past[k] = dict(now)
            members, keep = rng.permutation(N)[:3], rng.random(3) < 0.7
            rows = {"a": rng.standard_normal((3, 2)), "b": rng.integers(0, 99, 3).astype(np.int32)}
            store.put(k, members, rows, keep)
            now |= {int(m): (rows["a"][j], rows["b"][j]) for j, m in enumerate(members) if keep[j]}
            k += 1
        elif action == "back" and k > safe:
            k = int(rng.integers(safe, k))
            store.back_to(k)
            now = dict(past[k])
        elif action == "commit":
            store.commit(k)
            safe = k
        else:
            store.commit(safe)
            store = Store(tmp_path, SPEC, N)
        rows, seen = store.take(np.arange(N))
        np.testing.assert_array_equal(seen, [i in now for i in range(N)])
        for i, (a, b) in now.items():
            np.testing.assert_array_equal(rows["a"][i], a)
            assert rows["b"][i] == b


def test_a_journal_that_was_being_written_is_no_journal(tmp_path):
    """A crash before a round's journal was complete: nothing was overwritten yet."""
    store, rows = Store(tmp_path, SPEC, N), {"a": np.ones((1, 2)), "b": np.ones(1, np.int32)}
    store.put(0, [1], rows, [True])
    seen = []
    original, np.savez = np.savez, lambda file, *arrays: (file.write(b"PK"), seen.append(1), (_ for _ in ()).throw(OSError()))
    try:
        with pytest.raises(OSError):
            store.put(1, [1], {"a": 2 * rows["a"], "b": rows["b"]}, [True])
    finally:
        np.savez = original
    store = Store(tmp_path, SPEC, N)
    store.back_to(1)
    assert seen and store.take([1])[0]["a"].tolist() == [[1, 1]]
    store.back_to(0)
    assert not store.take([1])[1].any()


def test_another_shape_of_record_is_refused(tmp_path):
    Store(tmp_path, SPEC, N)
    with pytest.raises(ValueError, match="records of other shapes; choose another folder"):
        Store(tmp_path, {"a": SPEC["a"]}, N)


def squared_error(x, example):
    a, b = example
    return 0.5 * (a @ x - b) ** 2


def examples(i):
    """Four examples of client `i`."""
    key = jax.random.fold_in(jax.random.key(5), i)
    a = jax.random.normal(key, (4, 2))
    return a, a @ jnp.asarray([1.0, -2.0]) + i


def streamed():
    return tw.StreamedRisk(squared_error, tw.data.Generated(examples, N, 4), np.zeros(2))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [tw.SCAFFOLD, tw.FedAvg])
def test_streamed_clients_are_those_in_memory(algorithm):
    method = algorithm(tw.LocalSGD(0.05, epochs=2, batch_size=2), cohort=3)
    data = [tuple(np.asarray(leaf) for leaf in examples(i)) for i in range(N)]
    memory = servers.run(tw.EmpiricalRisk(squared_error, data, np.zeros(2)), method, 6, keep_agents=True)
    disk = servers.run(streamed(), method, 6, keep_agents=True)
    np.testing.assert_allclose(disk.x, memory.x, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(disk.ledger.messages, memory.ledger.messages)  # the same cohorts
    np.testing.assert_allclose(disk.history["objective"], memory.history["objective"], rtol=1e-11)


@pytest.mark.slow
def test_a_continued_run_is_an_uninterrupted_one_also_after_a_crash(tmp_path, monkeypatch):
    method = tw.SCAFFOLD(tw.LocalSGD(0.05, epochs=1, batch_size=2), cohort=3)
    whole = servers.run(streamed(), method, 8, every=2, checkpoint=tmp_path / "whole")
    servers.run(streamed(), method, 4, every=2, checkpoint=tmp_path / "parts")
    # Rounds beyond the checkpoint write records; then the process is gone before it saves again.
    with monkeypatch.context() as crash:
        crash.setattr(checkpoint, "save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert driver.checkpoint is checkpoint
        with pytest.raises(KeyboardInterrupt):
            servers.run(streamed(), method, 7, every=2, checkpoint=tmp_path / "parts", resume=True)
    assert list((tmp_path / "parts" / "records").glob("journal-[456]*"))
    assert not list((tmp_path / "parts" / "records").glob("journal-3*"))  # before the checkpoint nothing is undone
    parts = servers.run(streamed(), method, 8, every=2, checkpoint=tmp_path / "parts", resume=True)
    np.testing.assert_array_equal(parts.x, whole.x)
    np.testing.assert_array_equal(parts.history["objective"], whole.history["objective"])
    for name in ("leaf-0", "seen"):
        assert (tmp_path / "parts/records" / name).read_bytes() == (tmp_path / "whole/records" / name).read_bytes()
