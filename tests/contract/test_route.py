"""Which rows cross between devices: the plan against brute force, the compiled program against the plan."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import exports
import support
import thalweg as tw
from thalweg.engine import loop, route, sharded
from thalweg.engine.assembly import assemble
from thalweg.engine.loop import Rules

N, D = 16, 5

NETWORKS = {
    "ring": tw.network.ring(N),
    "path": tw.network.path(N),
    "torus": tw.network.torus(4, 4),
    "exponential": tw.network.exponential(32),
    "star": tw.network.star(N),
    "random": tw.network.random_regular(N, 3, seed=1),
    "nobody across": tw.network.from_edges([[i, i + 1] for i in range(0, N, 2)], N, allow_disconnected=True),
    "schedule": tw.network.periodic([tw.network.ring(N), tw.network.torus(4, 4)]),
}


def delivered(plan, devices, rows):
    """What every device holds after all hops, `[p, ...]`, by NumPy."""
    blocks = np.split(rows, devices)
    held = [[block] for block in blocks]
    for table, pairs in zip(plan.rows, plan.pairs, strict=True):
        assert len(set(pairs)) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # a permutation
        came = {to: blocks[sender][np.asarray(table[sender])] for sender, to in pairs}
        for device in range(devices):
            held[device].append(came.get(device, np.full_like(blocks[0][: table.shape[1]], -1)))
    return [np.concatenate(parts) for parts in held]


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_slot_finds_its_neighbour_and_no_row_crosses_in_vain(name, devices):
    slots = NETWORKS[name].slots()
    neighbours, mask = slots.neighbours, slots.mask
    n = len(neighbours)
    found = route.plan(neighbours, devices)
    block = lambda i: i // (n // devices)
    # Per receiving block and distance, how many rows somebody there is to hear.
    wanted = {
        (r, s): {j for i in range(n) if block(i) == r for j in neighbours[i][mask[i]] if block(j) == s}
        for r in range(devices)
        for s in range(devices)
        if r != s
    }
    longest = [max(len(wanted[r, (r + hop) % devices]) for r in range(devices)) for hop in range(1, devices)]
    if found is None:
        assert sum(longest) == n - n // devices
        return
    places, plan = found
    held = delivered(plan, devices, np.arange(n))
    for i in range(n):
        np.testing.assert_array_equal(held[block(i)][places[i]][mask[i]], neighbours[i][mask[i]])
    crossing = sum(sum(longest[hop - 1] for r in range(devices) if wanted[r, (r + hop) % devices]) for hop in range(1, devices))
    assert plan.moved == crossing


def test_rows_by_hand():
    """A ring sends two rows from each block, a torus of rows two whole rows, and a dense graph goes the other way."""
    moved = lambda network, devices: route.plan(network.slots().neighbours, devices)[1].moved
    assert moved(tw.network.ring(1000), 4) == 2 * 4
    assert moved(tw.network.ring(1000), 2) == 2 * 2
    assert moved(tw.network.torus(40, 25), 4) == 2 * 25 * 4
    # i hears i − 2^k: of the block before, all (k = 8), and of the one before that, all (k = 9).
    assert moved(tw.network.exponential(1024), 4) == 2 * 256 * 4
    assert route.plan(tw.network.complete(12).slots().neighbours, 4) is None


def program(network, algorithm=None, **options):
    """(session on four devices, assembled program, rules, local, shared)."""
    problem = support.quadratics(network.n, D, 0)[0]
    made = assemble(
        problem, algorithm or tw.GradientTracking(), network, ids=np.arange(network.n), seed=0, link=None, mixer=None,
        adversary=None, fast=True,
    ).program  # fmt: skip
    nothing = jnp.full(D, jnp.nan)
    rules = Rules(None, jnp.asarray(4, jnp.int32), nothing, jnp.asarray(jnp.inf), keep_agents=False)
    session = tw.Sharded(devices=4).open()
    return session, made, rules, *session.begin(made, rules)


def compiled(session, e, rules, local, shared):
    """The text of the compiled loop."""
    arguments = session._arguments(loop.advance, e, rules, (local,), (shared, jnp.asarray(8, jnp.int32)))
    return sharded._sharded.lower(*arguments).compile().compiled.as_text()


def collectives(text, kind):
    """(bytes of the result, how many devices send) of every collective of this kind."""
    found = []
    for line in text.splitlines():
        if match := re.search(rf"= \(?([a-z0-9]+)\[([\d,]*)\].* {kind}(?:-start)?\(", line):
            size = np.prod([int(length) for length in match[2].split(",") if length] or [1])
            width = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "pred": 1, "u8": 1}[match[1]]
            pairs = re.search(r"source_target_pairs=\{[\d,{}]*\}", line)
            found.append((int(size) * width, len(re.findall(r"\{\d+,\d+", pairs[0])) if pairs else 0))
    return found


@pytest.mark.parametrize(
    "name", ["ring", pytest.param("torus", marks=pytest.mark.slow), pytest.param("exponential", marks=pytest.mark.slow)]
)
def test_the_compiled_program_permutes_what_the_plan_says_and_gathers_no_messages(name):
    session, e, *run = program(NETWORKS[name])
    text = compiled(session, e, *run)
    permutes, gathers = collectives(text, "collective-permute"), collectives(text, "all-gather")
    assert sum(size * senders for size, senders in permutes) == session.moved(e, run[1])
    row = 2 * D * 8  # x and y in double precision
    assert session.moved(e, run[1]) == route.plan(NETWORKS[name].slots().neighbours, 4)[1].moved * row
    assert all(size < e.n * D * 8 for size, _ in gathers)  # of records: a few numbers of each agent


def test_a_dense_schedule_gathers_everybodys_messages():
    network = tw.network.periodic([NETWORKS["ring"], tw.network.star(N), tw.network.random_regular(N, 7, seed=0)])
    session, e, *run = program(network)
    text = compiled(session, e, *run)
    assert not collectives(text, "collective-permute")
    assert max(size for size, _ in collectives(text, "all-gather")) >= N * D * 8
    assert session.moved(e, run[1]) == 3 * N * 2 * D * 8


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_routed_runs_have_the_bits_of_one_device(devices):
    network = tw.network.torus(4, 4).with_failures(loss=0.2)
    problem = support.quadratics(N, 3, 0)[0]
    stop = tw.Stop(progress=1e-3, agreement=1e-3, distributed=True)
    solve = lambda engine: exports.solve(
        problem, tw.GradientTracking(), network, rounds=60, every=20, engine=engine, deterministic=True, stop=stop
    )
    simulated, other = solve("simulated"), solve(tw.Sharded(devices=devices))
    assert exports.bits((other.x, other.agents, other.records, other.history.scalars)) == exports.bits(
        (simulated.x, simulated.agents, simulated.records, simulated.history.scalars)
    )
