"""Secure sums between sites: what the server gets to see, who may drop out when, who may lie.

Axes: `n` clients, `d` variables.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import servers
import support
import thalweg as tw
from deployed import SERVER, Killed, Mortal, Wrapped, blank, in_a_thread, names, run_federation
from thalweg.deploy import keys
from thalweg.deploy.client import Client
from thalweg.deploy.federation import Plan
from thalweg.deploy.identity import Identity
from thalweg.deploy.invitation import Invitation
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.post import Kind
from thalweg.deploy.rounds import ClientRounds
from thalweg.deploy.sealed_sum import Part, Terms
from thalweg.deploy.server import Server
from thalweg.deploy.signer import NOBODY, Signer, vouched
from thalweg.deploy.site import Settings
from thalweg.deploy.synchronous import Synchronous
from thalweg.message import secure
from thalweg.message.secure import wire
from thalweg.observe import Outcome

N, D = 4, 3
NAMES = names(N)
_, A, B, _ = support.quadratics(N, D, 7)
PIECES = [tw.quadratic(A[i : i + 1], B[i : i + 1]) for i in range(N)]
RATE, STEPS = 0.02, 4
LOCAL = tw.LocalSGD(RATE, steps=STEPS)
AVERAGE, OWN = tw.FedAvg(LOCAL), tw.Ditto(LOCAL, personal_solver=LOCAL, penalty=0.5)
SUM = tw.message.secure_sum(20.0, dropouts=1)
BOUND = SUM.error_bound(N)


@pytest.fixture
def sums(monkeypatch):
    """(round, phase) → the sites whose vectors were in the sum."""
    found, whole = {}, Synchronous._sum

    def noted(self, places, bodies, common, k, index, sums):
        survivors, total = whole(self, places, bodies, common, k, index, sums)
        found[k, index] = survivors
        return survivors, total

    monkeypatch.setattr(Synchronous, "_sum", noted)
    return found


def followed(sums, rounds):
    """(x, v [n, d]) after so many rounds of Ditto, by NumPy, of which a client and the server keep what was in the sum."""
    x, v = np.zeros(D), np.zeros((N, D))
    for k in range(rounds):
        there = [NAMES.index(site) for site in sums[k, 0]]
        for i in there:
            for _ in range(STEPS):
                v[i] -= RATE * (A[i] @ v[i] + B[i] + 0.5 * (v[i] - x))
        if there:
            x = servers.descend(A, B, x, RATE, STEPS)[there].mean(0)
    return x, v


def assert_followed(sums, server, clients):
    x, v = followed(sums, server.rounds)
    np.testing.assert_allclose(server.x, x, atol=server.rounds * BOUND)
    for i, client in enumerate(clients):
        np.testing.assert_allclose(client.x, v[i], atol=server.rounds * BOUND)


class Heard(Wrapped):
    """Keeps the letters that its site received."""

    def __init__(self, post):
        super().__init__(post)
        self.letters = []

    def receive(self, timeout):
        letter = self._post.receive(timeout)
        if letter is not None:
            self.letters.append(letter)
        return letter


def test_the_server_receives_no_unmasked_vector_and_its_sum_is_theirs(monkeypatch):
    d, rounds, posts, elements, totals = 400, 3, [], [], []
    seal, up_sum = ClientRounds.seal, tw.deploy.server.ServerRounds.up_sum

    def sealed(self, *args):
        found = seal(self, *args)
        elements.append(np.asarray(found[1]))
        return found

    def summed(self, central, draw, arrived, total, k, index):
        totals.append(np.array(total))
        return up_sum(self, central, draw, arrived, total, k, index)

    monkeypatch.setattr(ClientRounds, "seal", sealed)
    monkeypatch.setattr(tw.deploy.server.ServerRounds, "up_sum", summed)
    _, a, b, _ = support.quadratics(N, d, 1)
    pieces = [tw.quadratic(a[i : i + 1], b[i : i + 1]) for i in range(N)]
    heard = lambda post: posts.append(Heard(post)) or posts[0]
    server, clients = run_federation(pieces, AVERAGE, rounds=rounds, aggregate=SUM, of_server=heard)
    assert server.outcome is Outcome.ROUND_LIMIT
    bodies = [bytes(letter.body) for letter in posts[0].letters]
    masked = [np.frombuffer(body[wire.HEADER_BYTES :], "<u4") for body in bodies if body[5:6] == bytes([wire.Kind.MASKED])]
    assert len(masked) == len(elements) == N * rounds
    for element in elements:
        assert not any(element[i : i + 4].tobytes() in body for body in bodies for i in range(0, d, 4))
        assert all(np.mean(vector == element) < 0.02 for vector in masked)
    for k in range(rounds):
        np.testing.assert_array_equal(totals[k], np.sum(elements[N * k : N * (k + 1)], axis=0, dtype=np.uint32))
    # Joining, the protocol's four messages a round, and the last word: nothing else came.
    assert [letter.kind for letter in posts[0].letters].count(Kind.SUM) == 3 * N * rounds
    assert [letter.kind for letter in posts[0].letters].count(Kind.MESSAGE) == N * rounds
    assert {letter.kind for letter in posts[0].letters} == {Kind.JOIN, Kind.MESSAGE, Kind.SUM, Kind.DONE}
    # A byte of a masked vector says nothing: all are equally likely.
    octets = np.concatenate(masked).view(np.uint8)
    counts = np.bincount(octets, minlength=256)
    assert ((counts - len(octets) / 256) ** 2 / (len(octets) / 256)).sum() < 255 + 6 * np.sqrt(2 * 255)
    assert all(client.ledger.payload == server.ledger.received // N for client in clients)


class Mute(Wrapped):
    """Of a site that says nothing any more in one round, from a step of its sum on."""

    def __init__(self, post, k, step):
        super().__init__(post)
        self._when = k, step

    def send(self, to, letter):
        k, step = self._when
        if letter.round != k or letter.kind not in (Kind.MESSAGE, Kind.SUM) or letter.body[5] < step:
            self._post.send(to, letter)


@pytest.mark.parametrize("step", [wire.Kind.KEYS, wire.Kind.SHARES, wire.Kind.MASKED, wire.Kind.REVEAL])
def test_who_drops_out_at_a_step_is_in_the_sum_only_if_its_vector_came(step, sums):
    """And keeps what has become of it then, and only then."""
    rounds, victim = 8, NAMES[1]
    answers = run_federation(
        PIECES, OWN, rounds=rounds, aggregate=SUM, settings=Settings(timeout=1.0, wait=60),
        of_client=lambda name, post: Mute(post, 3, step) if name == victim else post,
    )  # fmt: skip
    assert [site for site in NAMES if site not in sums[3, 0]] == ([] if step == wire.Kind.REVEAL else [victim])
    assert victim in sums[rounds - 1, 0]
    assert_followed(sums, *answers)


@pytest.mark.parametrize("step", [wire.Kind.MASKED, wire.Kind.REVEAL])
def test_a_round_that_too_few_are_left_in_is_void_and_the_run_goes_on(step, sums):
    rounds = 8
    server, clients = run_federation(
        PIECES, OWN, rounds=rounds, aggregate=SUM, settings=Settings(timeout=1.0, wait=60),
        of_client=lambda name, post: Mute(post, 3, step) if name in NAMES[1:3] else post,
    )  # fmt: skip
    assert sums[3, 0] == []
    assert server.history["participants"][3] == 0
    assert min(len(sums[k, 0]) for k in range(rounds) if k != 3) >= 3
    assert_followed(sums, server, clients)


@pytest.mark.slow
def test_letters_that_are_lost_at_random_cost_sums_and_nothing_else(sums):
    chance = np.random.default_rng(0)

    class Fickle(Wrapped):
        def send(self, to, letter):
            if letter.kind is not Kind.SUM or chance.uniform() > 0.06:
                self._post.send(to, letter)

    answers = run_federation(
        PIECES, OWN, rounds=40, aggregate=SUM, settings=Settings(timeout=0.2, wait=60), of_client=lambda _, post: Fickle(post)
    )
    sizes = [len(who) for who in sums.values()]
    assert min(sizes) == 0
    assert {3, 4} <= set(sizes)
    assert_followed(sums, *answers)


def start(exchange, name, answers, plan, post=None, **settings):
    """A site in a thread of its own."""
    options = {"sites": NAMES, "settings": Settings(**{"wait": 60, **settings}), "simulated_secrets": True}

    def make(post):
        if name == SERVER:
            return Server(blank(PIECES[0]), plan, post=post, **options)
        return Client(PIECES[NAMES.index(name)], plan, server=SERVER, post=post, **options)

    return in_a_thread(name, exchange.join(name) if post is None else post, make, answers)


def ended(threads):
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("looks", [60, 61, *(pytest.param(looks, marks=pytest.mark.slow) for looks in range(62, 80))])
def test_a_server_that_is_killed_begins_the_sum_again_with_the_same_numbers(looks, tmp_path):
    """Wherever in a sum it died."""
    exchange, answers, rounds = Exchange(), {}, 12
    plan, options = (
        Plan(OWN, rounds=rounds, aggregate=SUM, deterministic=True),
        lambda name: {"folder": tmp_path / name, "timeout": 60},
    )
    threads = [start(exchange, name, answers, plan, **options(name)) for name in NAMES]
    start(exchange, SERVER, answers, plan, post=Mortal(exchange.join(SERVER), looks), **options(SERVER)).join(60)
    assert isinstance(answers[SERVER], Killed)
    ended([*threads, start(exchange, SERVER, answers, plan, **options(SERVER))])
    simulated = tw.solve(tw.quadratic(A, B), OWN, rounds=rounds, aggregate=SUM, deterministic=True)
    assert answers[SERVER].rounds == rounds, answers[SERVER]
    np.testing.assert_array_equal(answers[SERVER].x, simulated.x)
    for i, name in enumerate(NAMES):
        np.testing.assert_array_equal(answers[name].x, simulated.agents[i])


@pytest.mark.parametrize("looks", [15, 16, *(pytest.param(looks, marks=pytest.mark.slow) for looks in range(17, 27))])
def test_a_client_that_is_killed_is_out_of_this_sum_and_in_a_later_one(looks, tmp_path, sums):
    exchange, answers, rounds, victim = Exchange(), {}, 60, NAMES[2]
    plan, options = Plan(OWN, rounds=rounds, aggregate=SUM), lambda name: {"folder": tmp_path / name, "timeout": 0.5}
    threads = [start(exchange, name, answers, plan, **options(name)) for name in (SERVER, *NAMES) if name != victim]
    start(exchange, victim, answers, plan, post=Mortal(exchange.join(victim), looks), **options(victim)).join(60)
    assert isinstance(answers[victim], Killed)
    ended([*threads, start(exchange, victim, answers, plan, **options(victim))])
    for name in (SERVER, *NAMES):
        assert answers[name].outcome is Outcome.ROUND_LIMIT, answers[name]
    assert victim in sums[rounds - 1, 0]
    assert_followed(sums, answers[SERVER], [answers[name] for name in NAMES])


@pytest.mark.parametrize("aggregate", [None, SUM], ids=["in the clear", "summed"])
@pytest.mark.parametrize(
    "looks", [17, *(pytest.param(looks, marks=pytest.mark.slow) for looks in (14, 15, 16, 18, 19, 20, 21))]
)
def test_nobody_waits_for_a_client_that_began_again_between_two_phases(looks, aggregate, tmp_path):
    exchange, answers, rounds, victim = Exchange(), {}, 40, NAMES[2]
    plan, options = Plan(tw.Mime(LOCAL), rounds=rounds, aggregate=aggregate), lambda name: {"folder": tmp_path / name}
    threads = [
        start(exchange, name, answers, plan, timeout=0.5, **options(name)) for name in (SERVER, *NAMES) if name != victim
    ]
    start(exchange, victim, answers, plan, post=Mortal(exchange.join(victim), looks), **options(victim)).join(60)
    assert isinstance(answers[victim], Killed)
    ended([*threads, start(exchange, victim, answers, plan, timeout=0.5, **options(victim))])
    for name in (SERVER, *NAMES):
        assert answers[name].outcome is Outcome.ROUND_LIMIT, answers[name]


def test_a_client_whose_message_is_not_a_number_keeps_it_out_of_the_sum(sums):
    broken = tw.quadratic(1e200 * np.eye(D)[None], B[:1])
    server, clients = run_federation([*PIECES[:3], broken], OWN, rounds=4, aggregate=SUM)
    assert all(who == NAMES[:3] for who in sums.values())
    assert server.rejected == {"took no part": 4}
    assert clients[3].rejected == {"not finite": 4}
    assert_followed(sums, server, clients)


def test_noise_is_of_the_operating_system_and_whole():
    """The sum of numbers that are zero is noise alone: of the deviation asked for if a client less had come."""
    d, zeros = 3000, np.zeros((1, 3000))
    noisy = tw.message.secure_sum(noise_multiplier=0.5, clip=200.0, dropouts=1)
    still = tw.Consensus(lambda x, a: 0 * x @ a, zeros, np.zeros(d), smoothness=1.0)
    found = [
        run_federation([still] * N, tw.FedAvg(tw.LocalSGD(0.1, steps=1)), rounds=1, aggregate=noisy, simulated_secrets=False)[
            0
        ].x
        for _ in range(2)
    ]
    expected = 0.5 * 200.0 / N * np.sqrt(N / (N - 1))
    for x in found:
        np.testing.assert_allclose(np.std(x), expected, rtol=6 / np.sqrt(2 * d))
    assert np.mean(found[0] == found[1]) < 0.01
    assert abs(np.corrcoef(*found)[0, 1]) < 6 / np.sqrt(d)


def test_a_part_answers_every_step_once_and_the_same_message_with_the_same_bytes():
    setup = secure.Setup(bytes(16), 3, 4, 2)
    parts = [Part(secure.Client(setup, i), np.full(4, i, "<u4")) for i in range(3)]
    server, said = secure.Server(setup), [part.keys for part in parts]
    for _ in range(4):
        for i, text in enumerate(said):
            server.receive(i, text)
        inboxes = server.advance()
        if inboxes:
            said = [part.answer(inboxes[i]) for i, part in enumerate(parts)]
            assert all(said)
            assert said == [part.answer(inboxes[i]) for i, part in enumerate(parts)]
        else:
            break
        last = inboxes
    np.testing.assert_array_equal(server.total, np.full(4, 3))
    lie = wire.pack(setup, wire.Kind.SURVIVORS, None, wire.pack_bitmap(setup, {0, 1}))
    for i in (0, 1):
        assert last[i] != lie
        assert parts[i].answer(lie) == b""  # the shares that it did not reveal stay with it
        assert parts[i].answer(last[i]) == b""
    early = Part(secure.Client(setup, 0), np.zeros(4, "<u4"))
    with pytest.raises(secure.ProtocolError):
        early.answer(last[0])
    assert early.answer(last[0]) == early.answer(inboxes.get(0, b"x")) == b""


# -- certificates ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Who sites are: name → identity."""
    folder = keys.init(tmp_path_factory.mktemp("keys") / "federation", [SERVER, *NAMES])
    return {name: Identity.load(folder, name) for name in (SERVER, *NAMES)}


def certified(federation, wrapped=Wrapped, of=()):
    """Arguments that give posts their identities, `wrapped` those of the sites in `of`."""

    def dress(name, post):
        post.identity = federation[name]
        return wrapped(post) if name in of else post

    return {"of_server": lambda post: dress(SERVER, post), "of_client": dress}


def test_with_certificates_sums_are_signed_to_the_same_numbers(federation, sums):
    rounds = 3
    server, clients = run_federation(PIECES, OWN, rounds=rounds, aggregate=SUM, deterministic=True, **certified(federation))
    simulated = tw.solve(tw.quadratic(A, B), OWN, rounds=rounds, aggregate=SUM, deterministic=True)
    np.testing.assert_array_equal(server.x, simulated.x)
    assert server.rejected == {}
    # A signature of its keys, and one of who survived in a message of its own.
    more = 64 + (wire.HEADER_BYTES + 64)
    for client in clients:
        assert client.ledger.payload == rounds * (simulated.ledger.message_bytes + more)
    assert server.ledger.received == N * clients[0].ledger.payload


class Apart(Wrapped):
    """A server that tells one client another model, to read its answer off the sum."""

    def send(self, to, letter):
        if letter.kind is Kind.MESSAGE and to == NAMES[0]:
            body = bytearray(letter.body)
            body[8:16] = np.float64(0.1).tobytes()
            letter = type(letter)(letter.kind, letter.epoch, letter.round, letter.phase, bytes(body))
        self._post.send(to, letter)


def test_a_client_that_is_told_another_model_is_in_no_sum_with_the_others(federation, sums):
    server, _ = run_federation(PIECES, AVERAGE, rounds=2, aggregate=SUM, **certified(federation, Apart, [SERVER]))
    assert all(who == NAMES[1:] for who in sums.values())
    assert server.rejected["malformed"] >= 2


class Swapping(Wrapped):
    """A server that puts a key of its own in the place of one client's, and signs in its name where it can."""

    def send(self, to, letter):
        if letter.kind is Kind.SUM and letter.body[5] == wire.Kind.ROSTER:
            body = bytearray(letter.body)
            first = wire.HEADER_BYTES + 4 + wire.ID_BYTES
            body[first + 32 : first + 64] = secure.crypto.public_key(bytes(range(32)))
            letter = type(letter)(letter.kind, letter.epoch, letter.round, letter.phase, bytes(body))
        self._post.send(to, letter)


@pytest.mark.parametrize("signed", [True, False])
def test_a_server_that_swaps_keys_is_noticed_where_they_are_signed(signed, federation, sums):
    options = certified(federation, Swapping, [SERVER]) if signed else {"of_server": Swapping}
    _, clients = run_federation(PIECES, AVERAGE, rounds=2, aggregate=SUM, **options)
    if signed:
        assert not any(sums.values())
        assert all(client.rejected == {"left the sum": 2} for client in clients)
    else:  # what the documentation says of it: nobody can know
        assert all(client.rejected == {} for client in clients)


def test_only_the_certificate_of_a_site_vouches_for_its_key(federation, tmp_path):
    signer, authority = Signer(federation[NAMES[0]], "run"), federation[NAMES[1]].authority
    assert vouched(authority, "run", NAMES[0], signer.proof) == signer.public
    other = Identity.load(keys.init(tmp_path / "other", NAMES), NAMES[0])
    swapped = bytes(32) + signer.proof[32:]
    for proof, run, name, said in (
        (signer.proof, "run", NAMES[1], "expected that of the site 'site-1'"),
        (signer.proof, "another run", NAMES[0], "for another run"),
        (swapped, "run", NAMES[0], "is not signed"),
        (signer.proof[:-1], "run", NAMES[0], "is not signed"),
        (signer.proof[:40], "run", NAMES[0], "expected a key, a certificate"),
        (b"", "run", NAMES[0], "expected a key, a certificate"),
        (Signer(other, "run").proof, "run", NAMES[0], "another authority"),
    ):
        with pytest.raises(ValueError, match=said):
            vouched(authority, run, name, proof)


class Forged(Wrapped):
    """A client whose word for its key is not worth anything."""

    def send(self, to, letter):
        if letter.kind is Kind.JOIN:
            body = letter.body.replace(b'"proof": "', b'"proof": "00')
            letter = type(letter)(letter.kind, letter.epoch, letter.round, letter.phase, body)
        self._post.send(to, letter)


def test_a_client_that_nobody_vouches_for_spoils_no_sum(federation, sums):
    server, clients = run_federation(PIECES, AVERAGE, rounds=3, aggregate=SUM, **certified(federation, Forged, NAMES[3:]))
    assert all(who == NAMES[:3] for who in sums.values())
    assert 1 <= server.rejected["bad certificate"] <= 2  # it may join once more before it is asked
    assert clients[3].rejected == {"invitation declined": 3}


def test_invitations_are_read_as_they_were_written_and_nothing_else_is():
    invitation = Invitation(bytes(range(16)), (0, 2, -1), (NOBODY, bytes(32)), {2: b"proof", 3: b""})
    text = invitation.pack()
    assert Invitation.read(text, 3, 4, True) == invitation
    for wrong in (text[:-1], text[: len(text) // 3], text + b"x", b"", text.replace(b"proof", b"proofs")):
        with pytest.raises(ValueError, match="got"):
            Invitation.read(wrong, 3, 4, True)
    for slots in ((2, 0, -1), (0, 0, -1), (0, 4, -1), (0, 2, -2)):
        with pytest.raises(ValueError, match="got clients"):
            Invitation.read(invitation._replace(slots=slots).pack(), 3, 4, True)
    rng = np.random.default_rng(0)
    for _ in range(500):  # whatever the bytes are, it is an invitation or a ValueError
        garbled = bytearray(text[: rng.integers(len(text) + 1)])
        for place in rng.integers(max(1, len(garbled)), size=2) if garbled else ():
            garbled[place] = rng.integers(256)
        with contextlib.suppress(ValueError):
            assert Invitation.read(bytes(garbled), 3, 4, True).pack() == garbled
    one = invitation.session("run", (0, 1, 0), b"model")
    assert one == invitation._replace(proofs={}).session("run", (0, 1, 0), b"model")
    others = [
        invitation.session("other", (0, 1, 0), b"model"),
        invitation.session("run", (1, 1, 0), b"model"),
        invitation.session("run", (0, 1, 0), b"modem"),
        invitation._replace(slots=(0, 3, -1)).session("run", (0, 1, 0), b"model"),
        invitation._replace(nonce=bytes(16)).session("run", (0, 1, 0), b"model"),
    ]
    assert len({one, *others}) == 6


def test_a_server_that_asks_for_the_message_itself_gets_nothing():
    """Whatever it runs, the client's own file says that there are sums."""
    exchange, answers, kept = Exchange(), {}, []
    threads = [start(exchange, name, answers, Plan(AVERAGE, rounds=2, aggregate=SUM), wait=8.0) for name in NAMES]
    post = Heard(exchange.join(SERVER))
    kept.append(start(exchange, SERVER, answers, Plan(AVERAGE, rounds=2), post=post, wait=5.0))
    ended([*threads, *kept])
    assert answers[SERVER].outcome is Outcome.TOO_FEW_AGENTS
    assert [bytes(letter.body) for letter in post.letters if letter.kind is not Kind.JOIN] == [b""] * N
    assert all(answers[name].rejected == {"invitation declined": 1} for name in NAMES)


STUDY = """
[problem]
kind = "logistic_regression"
data = "all.csv"
label = "sick"
agent = "hospital"
l2 = 0.1
[algorithm]
name = "Ditto"
solver = { kind = "LocalSGD", learning_rate = 0.1, steps = 2 }
personal_solver = { kind = "LocalSGD", learning_rate = 0.1, steps = 2 }
[aggregate]
kind = "secure_sum"
range = 8.0
[run]
rounds = 12
reference = false
[deploy]
sites = ["hub", "north", "south", "west", "east"]
server = "hub"
timeout = 5.0
wait = 100.0
"""


@pytest.mark.slow
def test_processes_over_zenoh_with_certificates_sum_what_the_simulation_sums(tmp_path):
    pytest.importorskip("zenoh")
    rng, lines = np.random.default_rng(3), ["age,dose,sick,hospital"]
    for hospital, count in zip(("north", "south", "west", "east"), (17, 9, 12, 14), strict=True):
        for age, dose in rng.normal(size=(count, 2)):
            lines.append(f"{age:.6f},{dose:.6f},{int(age + rng.normal() > 0)},{hospital}")
    (tmp_path / "all.csv").write_text("\n".join(lines))
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    simulated, _ = tw.experiment.load(file).run(tmp_path / "simulated", progress=False)
    environment = os.environ | {"PYTHONPATH": str(Path(tw.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "thalweg.cli", "up", str(file), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    answer = lambda name: json.loads((tmp_path / "run" / name / "answer.json").read_text())
    hub = answer("hub")
    assert hub["rounds"] == 12
    assert hub["history"]["participants"] == [4] * 12
    assert hub["rejected"] == {}
    sent = simulated.ledger.message_bytes + 64 + (wire.HEADER_BYTES + 64)
    assert hub["ledger"]["received"] == 4 * 12 * sent
    bound = 12 * tw.message.secure_sum(8.0).error_bound(4)
    with np.load(tmp_path / "run" / "hub" / "answer.npz") as arrays:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=4 * bound), _named(arrays), _plain(simulated.x))


def _named(arrays):
    return {name.removeprefix("x/").removeprefix("x"): arrays[name] for name in arrays.files}


def _plain(x):
    return {str(name): np.asarray(value) for name, value in x.items()} if isinstance(x, dict) else {"": np.asarray(x)}


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregate", "cohort", "said"),
    [
        (tw.message.homomorphic_sum(1.0), None, "simulated only"),
        (tw.message.secure_sum(1.0), tw.cohort.by_size(3), "would have to believe its server"),
        (tw.message.secure_sum(1.0), tw.cohort.power_of_choice(2, 3), "would have to believe its server"),
    ],
)
def test_what_cannot_be_summed_unseen_between_sites_is_refused(aggregate, cohort, said):
    with pytest.raises(ValueError, match=said):
        Plan(tw.FedAvg(tw.LocalSGD(0.1), cohort=cohort), aggregate=aggregate)


def test_with_certificates_less_than_a_third_may_drop_out():
    known = lambda dropouts: tw.message.secure_sum(1.0, dropouts=dropouts).resolve(9, False)
    Terms(known(2), [3], True, NAMES, "run", True).check()
    Terms(known(4), [3], True, NAMES, "run", False).check()
    with pytest.raises(ValueError, match="expected at most 2, less than a third"):
        Terms(known(3), [3], True, NAMES, "run", True).check()
