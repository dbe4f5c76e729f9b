"""Budgets of privacy between sites: each counts by itself what it gives, and gives no more than that.

Axes: `n` sites, `d` variables.
"""

import collections
import dataclasses
import math
import time

import dp_accounting
import dp_accounting.rdp
import numpy as np
import pytest

import support
import thalweg as tw
from deployed import SERVER, Killed, Wrapped, blank, in_a_thread, live_together, names, run_federation, run_peers
from thalweg.deploy.client import Client
from thalweg.deploy.federation import Plan
from thalweg.deploy.folder import SiteFolder
from thalweg.deploy.launch import prepare, site_of
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.merged import merged
from thalweg.deploy.post import Kind
from thalweg.deploy.process import _plain
from thalweg.deploy.purse import Purse, Spent
from thalweg.deploy.server import Server
from thalweg.deploy.site import Settings
from thalweg.experiment import Mistake
from thalweg.observe import Outcome

N, D = 4, 3
NAMES = names(N)
_, A, B, _ = support.quadratics(N, D, 7)
PIECES = [tw.quadratic(A[i : i + 1], B[i : i + 1]) for i in range(N)]
AVERAGE = tw.FedAvg(tw.LocalSGD(0.02, steps=4))
NOISE = tw.message.chain(tw.message.clip(1.0), tw.message.gaussian(0.1))
SUM = tw.message.secure_sum(noise_multiplier=1.0, clip=20.0, dropouts=1)
DELTA = 1e-5


class Heard(Wrapped):
    """A post that keeps what it was sent by whom: sender → (epoch, round) → bodies."""

    def __init__(self, post, found):
        super().__init__(post)
        self._found = found

    def receive(self, timeout):
        letter = self._post.receive(timeout)
        if letter is not None and letter.kind is Kind.MESSAGE and letter.body:
            self._found[letter.sender][letter.epoch, letter.round].add(bytes(letter.body))
        return letter


class Doomed(Wrapped):
    """A post whose site dies when it has got so many messages."""

    def __init__(self, post, messages):
        super().__init__(post)
        self._left = messages

    def receive(self, timeout):
        letter = self._post.receive(timeout)
        self._left -= letter is not None and letter.kind is Kind.MESSAGE
        if self._left <= 0:
            self._post.close()
            raise Killed
        return letter


def kept():
    return collections.defaultdict(lambda: collections.defaultdict(set))


def assert_noise_is_fresh(found):
    """Some rounds were done again, in another epoch, and nobody said the same in both."""
    again = 0
    for bodies in found.values():
        for (_, k), told in bodies.items():
            others = [other for (_, j), other in bodies.items() if j == k and other is not told]
            again += len(others)
            assert all(told.isdisjoint(other) for other in others)
    assert again


def gaussian(multiplier, rounds):
    """ε of so many draws with noise of `multiplier` times what can change, by `dp-accounting` alone."""
    accountant = dp_accounting.rdp.RdpAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(multiplier), rounds)
    return accountant.get_epsilon(DELTA)


def test_a_purse_counts_over_restarts_and_stops_where_it_cannot_write(tmp_path):
    purse = Purse(3, tmp_path, False)
    purse.pay()
    purse.pay()
    again = Purse(3, tmp_path, True)
    assert again.spent == 2
    again.pay()
    for one in (again, Purse(3, tmp_path, False)):
        with pytest.raises(Spent, match="allows 3 rounds"):
            one.pay()
    (tmp_path / "full").mkdir()
    full = Purse(3, tmp_path / "full", False)
    (tmp_path / "full" / "spent").mkdir()  # as good as a disk that takes nothing
    with pytest.raises(Spent, match="cannot write down"):
        full.pay()
    assert full.spent == 0
    free = Purse(None, tmp_path, False)
    free.pay()
    assert free.spent == 0


@pytest.mark.parametrize("pipeline", [{"uplink": NOISE}, {"aggregate": SUM}], ids=["uplink", "sum"])
def test_clients_give_no_more_than_their_allowance_whatever_the_server_asks(pipeline):
    found, began = kept(), time.monotonic()
    server, clients = run_federation(
        PIECES, AVERAGE, rounds=9, allowance=4, simulated_secrets=False,
        of_server=lambda post: Heard(post, found), settings=Settings(wait=300), **pipeline,
    )  # fmt: skip
    for name, client in zip(NAMES, clients, strict=True):
        assert client.outcome is Outcome.PRIVACY
        assert client.ledger.spent == 4
        assert set(found[name]) == {(0, k) for k in range(4)}
        np.testing.assert_array_equal(client.x, server.x)  # it stays until it has the answer
    assert server.outcome is Outcome.PRIVACY
    assert server.rounds == 4
    assert "its budget of privacy allows 4 rounds" in server.reason
    assert time.monotonic() - began < 150  # nobody waits for those who will not come


def test_where_chance_draws_clients_those_who_have_spent_do_not_end_the_run():
    coins = tw.FedAvg(tw.LocalSGD(0.02, steps=4), cohort=tw.cohort.poisson(0.5))
    began = time.monotonic()
    server, clients = run_federation(
        PIECES, coins, rounds=30, allowance=8, simulated_secrets=False, uplink=NOISE, seed=3, settings=Settings(wait=300)
    )
    assert server.outcome is Outcome.PRIVACY
    assert 8 < server.rounds < 30  # to be drawn eight times takes about sixteen rounds
    assert sorted(client.ledger.spent for client in clients)[2:] == [8, 8]  # of four, of whom three are a quorum
    for client in clients:
        np.testing.assert_array_equal(client.x, server.x)
    assert time.monotonic() - began < 150


def test_a_server_that_does_not_wait_goes_on_with_those_who_have_not_spent_theirs():
    server, clients = run_federation(
        PIECES, AVERAGE, rounds=12, allowance=4, simulated_secrets=False, uplink=NOISE, engine=tw.engine.EventDriven(buffer=1)
    )
    assert (server.outcome, server.rounds) == (Outcome.ROUND_LIMIT, 12)
    assert sum(client.ledger.spent for client in clients) >= 12
    for client in clients:
        assert client.ledger.spent <= 4
        np.testing.assert_array_equal(client.x, server.x)


def test_it_does_not_wait_for_ever_for_those_who_may_still_work_and_are_gone():
    mortal = lambda name, post: Doomed(post, 4) if name == NAMES[3] else post
    exchange, answers, threads = Exchange(), {}, []
    plan = Plan(AVERAGE, rounds=60, uplink=NOISE, engine=tw.engine.EventDriven(buffer=1))
    common = {"sites": NAMES, "settings": Settings(wait=8)}

    def site(name, post):
        if name == SERVER:
            return Server(blank(PIECES[0]), plan, post=post, **common)
        i = NAMES.index(name)
        return Client(PIECES[i], plan, server=SERVER, post=mortal(name, post), allowance=2 if i < 3 else None, **common)

    for name in (SERVER, *NAMES):
        threads.append(in_a_thread(name, exchange.join(name), lambda post, name=name: site(name, post), answers))
    for thread in threads:
        thread.join(60)
    assert answers[SERVER].outcome is Outcome.TOO_FEW_AGENTS
    assert f"0 clients are there, expected 1; missing: {', '.join(NAMES)}" in answers[SERVER].reason


class Forgetful(Wrapped):
    """A server's post that loses the first refusal of a client."""

    lost = False

    def receive(self, timeout):
        letter = self._post.receive(timeout)
        if letter is not None and letter.kind is Kind.REFUSED and not self.lost:
            self.lost = True
            return None
        return letter


@pytest.mark.parametrize("engine", [None, tw.engine.EventDriven(buffer=1)], ids=["rounds", "no rounds"])
def test_a_refusal_that_is_lost_is_said_again(engine):
    posts = []
    server, clients = run_federation(
        PIECES, AVERAGE, rounds=8, allowance=[2, 20, 20, 20], simulated_secrets=False, uplink=NOISE, engine=engine,
        settings=Settings(wait=30, timeout=0.5), of_server=lambda post: posts.append(Forgetful(post)) or posts[0],
    )  # fmt: skip
    assert (server.outcome, server.rounds) == (Outcome.ROUND_LIMIT, 8)
    if engine is None:
        assert posts[0].lost
        assert clients[0].ledger.spent == 2
    for client in clients:
        assert not client.rejected.get("stale")


def test_nobody_pays_for_a_sum_that_cannot_be():
    two = tw.FedAvg(tw.LocalSGD(0.02, steps=4), cohort=2)
    server, clients = run_federation(
        PIECES, two, rounds=14, allowance=[1, 20, 20, 20], aggregate=tw.message.secure_sum(20.0, dropouts=0),
        settings=Settings(wait=30, quorum=2),
    )  # fmt: skip
    assert server.rounds == 14
    counted = sum(server.history["participants"])
    # The round in which it says so is the only one that is paid for and void.
    assert counted <= sum(client.ledger.spent for client in clients) <= counted + 1
    assert 0 in server.history["participants"]


@pytest.mark.parametrize("pipeline", [{}, {"uplink": NOISE}], ids=["plain", "noisy"])
def test_a_server_without_a_log_begins_again(pipeline):
    """Its epochs are those of the life before."""
    exchange, answers, plan, found = Exchange(), {}, Plan(AVERAGE, rounds=6, **pipeline), kept()
    common = {"sites": NAMES, "settings": Settings(wait=30, timeout=0.5)}
    make = lambda i: lambda post: Client(PIECES[i], plan, server=SERVER, post=post, **common)
    threads = [in_a_thread(name, exchange.join(name), make(i), answers) for i, name in enumerate(NAMES)]
    server = lambda post: Server(blank(PIECES[0]), plan, post=post, **common)
    in_a_thread(SERVER, Doomed(Heard(exchange.join(SERVER), found), 2 * N + 2), server, answers).join(60)
    assert isinstance(answers.pop(SERVER), Killed)
    again = in_a_thread(SERVER, Heard(exchange.join(SERVER), found), server, answers)
    for thread in (again, *threads):
        thread.join(60)
    assert answers[SERVER].rounds == 6
    if pipeline:
        for bodies in found.values():
            assert len(bodies[0, 0]) == 2


def test_a_round_that_is_done_again_costs_again_under_other_noise(tmp_path):
    """The server dies in the middle: what clients have sent is not to be had back."""
    exchange, answers, plan, threads, found = Exchange(), {}, Plan(AVERAGE, rounds=6, uplink=NOISE), {}, kept()

    def site(name, post):
        settings = Settings(wait=60, timeout=0.5, folder=tmp_path / name)
        if name == SERVER:
            return Server(blank(PIECES[0]), plan, sites=NAMES, post=post, settings=settings)
        i = NAMES.index(name)
        return Client(PIECES[i], plan, server=SERVER, sites=NAMES, post=post, settings=settings, allowance=12)

    for name in NAMES:
        threads[name] = in_a_thread(name, exchange.join(name), lambda post, name=name: site(name, post), answers)
    post = Doomed(Heard(exchange.join(SERVER), found), 2 * N + 2)  # after some answers of a round, before the last
    first = in_a_thread(SERVER, post, lambda post: site(SERVER, post), answers)
    first.join(120)
    assert isinstance(answers.pop(SERVER), Killed)
    again = in_a_thread(SERVER, Heard(exchange.join(SERVER), found), lambda post: site(SERVER, post), answers)
    for thread in (again, *threads.values()):
        thread.join(120)
    assert answers[SERVER].rounds == 6
    spent = [answers[name].ledger.spent for name in NAMES]
    assert min(spent) >= 6
    assert max(spent) == 7
    assert [(tmp_path / name / "spent").stat().st_size for name in NAMES] == spent
    assert_noise_is_fresh(found)


def test_peers_that_do_a_round_again_draw_other_noise(tmp_path):
    """Without that the difference of both messages would be free of it."""
    exchange, answers, found, threads = Exchange(), {}, kept(), {}

    def site(name, post):
        return tw.deploy.Peer(
            PIECES[NAMES.index(name)], tw.DGD(0.05), tw.network.ring(N), sites=NAMES, post=post, rounds=30,
            link=NOISE, settings=Settings(wait=60, timeout=0.5, folder=tmp_path / name),
        )  # fmt: skip

    posts = {name: Heard(exchange.join(name), found) for name in NAMES}
    posts[NAMES[0]] = Doomed(posts[NAMES[0]], 21)
    for name, post in posts.items():
        threads[name] = in_a_thread(name, post, lambda post, name=name: site(name, post), answers)
    threads[NAMES[0]].join(120)
    assert isinstance(answers.pop(NAMES[0]), Killed)
    threads[NAMES[0]] = in_a_thread(NAMES[0], exchange.join(NAMES[0]), lambda post: site(NAMES[0], post), answers)
    for thread in threads.values():
        thread.join(120)
    assert {answers[name].rounds for name in NAMES} == {30}
    assert_noise_is_fresh(found)


def test_peers_leave_once_theirs_is_spent_and_a_restart_counts_on(tmp_path):
    options = {"rounds": 9, "link": NOISE, "allowance": 5}
    answers = run_peers(PIECES, tw.DGD(0.05), tw.network.ring(N), **options)
    for answer in answers:
        assert answer.outcome is Outcome.PRIVACY
        assert answer.ledger.spent == 5
        assert answer.rounds in (4, 5)  # whoever leaves first ends a round that others are in
    settings = [Settings(wait=60, folder=tmp_path / name) for name in NAMES]
    for already in (2, 5):
        for one in settings:
            one.folder.mkdir(exist_ok=True)
            (one.folder / "spent").write_bytes(b"." * already)
        exchange = Exchange()
        make = lambda name, post: tw.deploy.Peer(
            PIECES[NAMES.index(name)], tw.DGD(0.05), tw.network.ring(N), sites=NAMES, post=post,
            settings=settings[NAMES.index(name)], **options,
        )  # fmt: skip
        ended = live_together({name: exchange.join(name) for name in NAMES}, make)
        assert {(answer.outcome, answer.ledger.spent) for answer in ended.values()} == {(Outcome.PRIVACY, 5)}
        # Done in the first turn, and remembered in the second; whoever leaves first ends a round that others are in.
        assert {answer.rounds for answer in ended.values()} <= {2, 3}


# -- files -------------------------------------------------------------------------------------------

PROBLEM = """
[problem]
kind = "logistic_regression"
data = "rows.csv"
label = "sick"
agent = "place"
features = ["dose"]
l2 = 0.1
"""
RUN = "[run]\nrounds = 40\nreference = false\n"
SITES = (
    '[deploy]\nsites = ["site-0", "site-1", "site-2", "site-3", "server"]\nserver = "server"\nrouter = "tls/127.0.0.1:7447"\n'
)
FEDAVG = '[algorithm]\nname = "FedAvg"\nsolver = { kind = "LocalSGD", learning_rate = 0.1, steps = 2 }\n'
SEALED = '[aggregate]\nkind = "secure_sum"\nnoise_multiplier = 4.0\nclip = 10.0\n'
BUDGET = "[privacy]\nepsilon = 4.0\ndelta = 1e-5\n"


def loaded(folder, *parts):
    """The experiment of these tables, with the records of four sites beside it."""
    rows = [f"{x:.3f},{int(x > 0.1 * i)},site-{i}" for i in range(N) for x in np.linspace(-1, 1, 24)]
    (folder / "rows.csv").write_text("\n".join(["dose,sick,place", *rows]))
    file = folder / "private.toml"
    file.write_text("".join(parts))
    return tw.experiment.load(file)


def test_a_budget_of_noise_in_a_secure_sum_ends_the_run_and_says_what_it_cost(tmp_path):
    experiment = loaded(tmp_path, PROBLEM, FEDAVG, SEALED, RUN, BUDGET, SITES)
    prepared = {name: prepare(experiment, name) for name in experiment.everybody}
    rounds = {p.spending.rounds for p in prepared.values()}
    most = max(k for k in range(1, 41) if gaussian(4.0, k) <= 4.0)
    assert rounds == {most}
    assert most < 40
    simulated, _ = experiment.run(tmp_path / "simulated", progress=False)
    assert simulated.rounds == most
    assert simulated.outcome is Outcome.PRIVACY
    exchange = Exchange()
    answers = live_together(
        {name: exchange.join(name) for name in experiment.everybody}, lambda name, post: site_of(prepared[name], post)
    )
    for name in NAMES:
        assert answers[name].ledger.spent == most
        assert prepared[name].spending.of_site(most) == pytest.approx(gaussian(4.0, most), rel=5e-3)
    assert answers["server"].rounds == most


def test_where_chance_draws_clients_all_rounds_begin_and_each_counts_its_own(tmp_path):
    """That a client was drawn is no secret from the server, so it makes nothing cheaper."""
    sealed = lambda dropouts: SEALED.replace("4.0", f"4.0\ndropouts = {dropouts}")
    drawn = FEDAVG.replace("solver", 'cohort = { kind = "poisson", rate = 0.5 }\nsolver')
    p = prepare(loaded(tmp_path, PROBLEM, drawn, sealed(1), RUN, BUDGET, SITES), "site-0")
    most = max(k for k in range(1, 41) if gaussian(4.0, k) <= 4.0)
    assert (p.spending.rounds, p.spending.allowance) == (40, most)
    two = loaded(tmp_path, PROBLEM, FEDAVG.replace("solver", "cohort = 2\nsolver"), sealed(0), RUN, BUDGET, SITES)
    exchange = Exchange()
    answers = live_together(
        {name: exchange.join(name) for name in two.everybody}, lambda name, post: site_of(prepare(two, name), post)
    )
    assert max(answers[name].ledger.spent for name in NAMES) == most
    assert min(answers[name].ledger.spent for name in NAMES) > 0
    assert answers["server"].outcome is Outcome.PRIVACY
    turns = FEDAVG.replace("solver", 'cohort = { kind = "cyclic", size = 2 }\nsolver')
    p = prepare(loaded(tmp_path, PROBLEM, turns, sealed(0), RUN, BUDGET, SITES), "site-0")
    assert p.spending.rounds == min(40, 2 * most)
    assert p.spending.allowance == most


def test_private_steps_are_counted_by_whoever_takes_them(tmp_path):
    steps = (
        '[algorithm]\nname = "FedAvg"\nsolver = { kind = "PrivateSGD", learning_rate = 0.1, clip = 1.0, noise_multiplier = 2.0, '
        "sampling_rate = 0.25, steps = 3 }\n"
    )
    experiment = loaded(tmp_path, PROBLEM, steps, RUN, BUDGET.replace("4.0", "3.0"), SITES)
    prepared = {name: prepare(experiment, name) for name in ("server", "site-0")}
    account = prepared["site-0"].spending.account
    assert (account.unit, account.draws, account.sampling_rate) == ("example", 3, 0.25)
    accountant = dp_accounting.rdp.RdpAccountant()
    one = dp_accounting.PoissonSampledDpEvent(0.25, dp_accounting.GaussianDpEvent(2.0))
    accountant.compose(one, 3 * prepared["site-0"].spending.allowance)
    assert accountant.get_epsilon(DELTA) <= 3.0
    accountant.compose(one, 3 * math.ceil(0.1 * prepared["site-0"].spending.allowance))
    assert accountant.get_epsilon(DELTA) > 3.0
    assert prepared["server"].spending.rounds == prepared["site-0"].spending.rounds > 0
    # A client whose static maximum cuts more has less to give; it says so, and all end at once.
    short = {name: prepare(experiment, name) for name in experiment.everybody}
    spending = dataclasses.replace(short["site-1"].spending, allowance=short["site-1"].spending.rounds - 1)
    short["site-1"] = dataclasses.replace(short["site-1"], spending=spending)
    spending = dataclasses.replace(short["site-2"].spending, allowance=short["site-2"].spending.rounds - 1)
    short["site-2"] = dataclasses.replace(short["site-2"], spending=spending)
    exchange, began = Exchange(), time.monotonic()
    answers = live_together(
        {name: exchange.join(name) for name in experiment.everybody}, lambda name, post: site_of(short[name], post)
    )
    assert {answer.outcome for answer in answers.values()} == {Outcome.PRIVACY}
    assert answers["server"].rounds == spending.allowance
    assert time.monotonic() - began < 300


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((FEDAVG, '[aggregate]\nkind = "noisy_mean"\nnoise_multiplier = 2.0\nclip = 1.0\n', SITES), "who answers in time"),
        (
            (
                '[network]\nkind = "ring"\n[algorithm]\nname = "DGD"\nstep_size = 0.05\n',
                '[[link]]\nkind = "clip"\nbound = 1.0\n[[link]]\nkind = "gaussian"\nstd = 9.0\n[stop]\nprogress = 1e-3\n',
                SITES.replace(', "server"]', "]").replace('server = "server"\n', ""),
            ),
            "without noise how far they are",
        ),
        (
            (FEDAVG, SEALED, '[[uplink]]\nkind = "clip"\nbound = 1.0\n[[uplink]]\nkind = "gaussian"\nstd = 1.0\n', SITES),
            "several",
        ),
        ((FEDAVG, SEALED.replace("4.0", "0.5"), SITES), "one round costs"),
    ],
)
def test_what_cannot_be_accounted_for_is_refused(tmp_path, parts, why):
    experiment = loaded(tmp_path, PROBLEM, *parts, RUN, BUDGET)
    with pytest.raises(Mistake, match=why):
        prepare(experiment, "site-0")


def test_what_is_told_without_noise_is_said(tmp_path):
    for algorithm, told in (('[algorithm]\nname = "FedAvg"\n', True), (FEDAVG, False)):
        said = prepare(loaded(tmp_path, PROBLEM, algorithm, SEALED, RUN, BUDGET, SITES), "site-0").said
        assert any("without noise" in text for text in said) == told


def test_the_report_says_what_each_site_has_spent(tmp_path):
    experiment = loaded(tmp_path, PROBLEM, FEDAVG, SEALED, RUN, BUDGET, SITES)
    prepared, exchange = {name: prepare(experiment, name) for name in experiment.everybody}, Exchange()
    answers = live_together(
        {name: exchange.join(name) for name in experiment.everybody}, lambda name, post: site_of(prepared[name], post)
    )
    folders = [SiteFolder(tmp_path / name) for name in experiment.everybody]
    for folder, name in zip(folders, experiment.everybody, strict=True):
        folder.path.mkdir()
        folder.write_answer(_plain(prepared[name], answers[name]), answers[name].x)
    (table,) = [table for table in merged(folders)[1] if table.title == "Sites"]
    column = table.columns.index("ε spent")
    spent = {row[0]: row[column] for row in table.rows}
    assert spent.pop("server") == ""
    assert [float(text) for text in spent.values()] == pytest.approx([gaussian(4.0, answers["server"].rounds)] * N, rel=5e-3)
