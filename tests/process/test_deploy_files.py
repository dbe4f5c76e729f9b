"""Experiment files and policies of sites: what they may say, and that what each site makes of them gives the simulated numbers."""

import json
import re
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import thalweg as tw
from deployed import live_together
from thalweg.cli.app import app
from thalweg.deploy.folder import SiteFolder
from thalweg.deploy.launch import digest, prepare, site_of
from thalweg.deploy.logs import logged
from thalweg.deploy.membership import Refused
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.merged import merged
from thalweg.deploy.metrics import Metrics, address
from thalweg.deploy.policy import Forbidden, Policy
from thalweg.deploy.post import Kind, Letter
from thalweg.deploy.watched import Stopped, Watched
from thalweg.experiment import Mistake

RECORDS = """
[problem]
kind = "logistic_regression"
{data}
label = "sick"
agent = "hospital"
l2 = 0.1
test = 0.25
"""
PEERS = '[network]\nkind = "path"\n[algorithm]\nname = "GradientTracking"\n'
# Steps that are left open follow from L and μ, which sites measure one by one, and a simulation all at once: an ulp apart.
STEP = "step_size = 0.2\n"
SERVER = '[algorithm]\nname = "FedAvg"\nsolver = { kind = "LocalSGD", learning_rate = 0.1, steps = 2, batch_size = 4 }\n'
MARKET = """
[problem]
kind = "allocation"
target = [5.0, 3.0, 4.0]
curvature = [1.0, 2.0, 0.5]
total = 9.0
[algorithm]
name = "DualAscent"
"""
RUN = "[run]\nrounds = 6\ndeterministic = true\nreference = false\n"
DEPLOY = '[deploy]\nsites = ["north", "south", "west"]\nrouter = "tls/127.0.0.1:7447"\n'
NOISE = '[[link]]\nkind = "clip"\nbound = 1.0\n[[link]]\nkind = "gaussian"\nstd = 4.0\n[privacy]\nepsilon = 4.0\ndelta = 1e-5\n'
HOSPITALS = ("north", "south", "west")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A folder with all.csv, and a file of each hospital's own rows."""
    folder, rng = tmp_path_factory.mktemp("records"), np.random.default_rng(3)
    rows = {}
    for hospital, count in zip(HOSPITALS, (17, 9, 12), strict=True):
        age, dose = rng.normal(size=count), rng.normal(size=count)
        sick = (age + rng.normal(size=count) > 0).astype(int)
        rows[hospital] = [f"{a:.6f},{b:.6f},{c}" for a, b, c in zip(age, dose, sick, strict=True)]
        (folder / f"{hospital}.csv").write_text("\n".join(["age,dose,sick", *rows[hospital]]))
    everybody = [f"{row},{hospital}" for hospital in HOSPITALS for row in rows[hospital]]
    (folder / "all.csv").write_text("\n".join(["age,dose,sick,hospital", *everybody]))
    return folder


def load(folder, *parts, name="study"):
    file = folder / f"{name}.toml"
    file.write_text("".join(parts))
    return tw.experiment.load(file)


def deployed(experiment, data=lambda name: None):
    """Site → answer, as threads of this process."""
    exchange = Exchange()
    make = lambda name, post: site_of(prepare(experiment, name, data(name)), post)
    return live_together({name: exchange.join(name) for name in experiment.everybody}, make)


ALL, OWN = 'data = "all.csv"', ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PEERS, SERVER], ids=["peers", "server"])
def test_sites_with_files_of_their_own_give_the_simulated_numbers(kind, records, tmp_path):
    kind = kind + STEP if kind == PEERS else kind
    whole = load(records, RECORDS.format(data=ALL), kind, RUN)
    simulated, _ = whole.run(tmp_path / "simulated", progress=False)
    peers = "[network]" in kind
    # No site has all.csv, and the file names none: features have to be said to a server, which has no records.
    said = RECORDS.format(data=OWN if peers else 'features = ["age", "dose"]')
    separate = load(records, said, kind, RUN, DEPLOY if peers else _with_server(DEPLOY))
    answers = deployed(separate, lambda name: records / f"{name}.csv" if name in HOSPITALS else None)
    if peers:
        for i, name in enumerate(HOSPITALS):
            jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a, b[i]), answers[name].x, simulated.agents)
    else:
        jax.tree.map(np.testing.assert_array_equal, answers["north-east"].x, simulated.x)


def _with_server(deploy):
    return deploy.replace('["north"', '["north-east", "north"') + 'server = "north-east"\n'


LINKS = """
[problem]
kind = "network_utility"
routes = [[0, 1], [0], [1]]
capacity = [1.0, 2.0]
[algorithm]
name = "DualAscent"
"""


@pytest.mark.slow
@pytest.mark.parametrize("market", [MARKET, LINKS], ids=["all rows", "few rows"])
def test_a_market_of_sites_gives_the_simulated_price(market, tmp_path):
    experiment = load(tmp_path, market, "step_size = 0.02\n", RUN)
    simulated, _ = experiment.run(tmp_path / "simulated", progress=False)
    answers = deployed(experiment)
    np.testing.assert_array_equal(answers["server"].x, simulated.price)
    for i, name in enumerate(experiment.sites):
        np.testing.assert_array_equal(answers[name].x, simulated.x[i])


def test_sites_have_one_hash_wherever_their_records_and_endpoints_are(records):
    base = load(records, RECORDS.format(data=ALL), PEERS, RUN, DEPLOY)
    table = '[deploy]\nrouter = "tls/other:1"\n[deploy.sites]\n' + "".join(f'{n} = "tls/{n}.org:7"\n' for n in HOSPITALS)
    for same in ((RECORDS.format(data=OWN), PEERS, RUN, DEPLOY), (RECORDS.format(data=ALL), PEERS, RUN, table)):
        assert digest(load(records, *same)) == digest(base)
    others = (
        (RECORDS.format(data=ALL), PEERS, RUN.replace("6", "7"), DEPLOY),
        (RECORDS.format(data=ALL).replace("0.1", "0.2"), PEERS, RUN, DEPLOY),
        (RECORDS.format(data=ALL), PEERS.replace("path", "ring"), RUN, DEPLOY),
        (RECORDS.format(data=ALL), PEERS + "step_size = 0.1\n", RUN, DEPLOY),
        (RECORDS.format(data=ALL), PEERS, RUN, DEPLOY.replace('"north", "south"', '"south", "north"')),
        (RECORDS.format(data=ALL), PEERS, RUN, "[stop]\nprogress = 1e-3\n", DEPLOY),
    )
    assert len({digest(load(records, *other)) for other in others} | {digest(base)}) == len(others) + 1


def test_a_graph_in_a_file_is_part_of_the_hash(tmp_path):
    text = '[problem]\nkind = "averaging"\nvalues = [1.0, 2.0, 3.0]\n[network]\nkind = "from_networkx"\ngraph = "g.edgelist"\n'
    experiment = load(tmp_path, text, '[algorithm]\nname = "DGD"\nstep_size = 0.1\n', DEPLOY)
    found = set()
    for edges in ("0 1\n1 2\n", "0 1\n1 2\n0 2\n"):
        (tmp_path / "g.edgelist").write_text("\n".join(f"{line} {{}}" for line in edges.splitlines()))
        found.add(digest(experiment))
    assert len(found) == 2


def test_a_simulated_run_takes_no_notice_of_the_table(records):
    plain, with_sites = (load(records, RECORDS.format(data=ALL), PEERS, RUN, table) for table in ("", DEPLOY))
    assert plain.hash == with_sites.hash


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ('[deploy]\nsites = ["a", "b", "a"]', "two sites are called 'a'"),
        ('[deploy]\nsites = ["a", "b c", "d"]', "letters, digits"),
        ('[deploy]\nsites = ["a"]', "at least two sites"),
        ('[deploy.sites]\na = "tcp/a:1"\nb = "tls/b:2"', '"tls/host:port"'),
        ('[deploy.sites]\na = "tls/a:70000"\nb = "tls/b:2"', "from 1 to 65535"),
        ('[deploy]\nsites = ["a", "b"]\nrouter = "tls/a"', 'deploy.router: got "tls/a"'),
        ('[deploy]\nsites = ["a", "b"]\nserver = "a"', "GradientTracking has no server"),
        ('[deploy]\nsites = ["a", "b"]\nserver = "c"', "expected one of the sites: a, b"),
        ('[deploy]\nsites = ["a", "b"]\nquorum = 3', "at most the number of sites, 2"),
        ('[deploy]\nsites = ["a", "b"]\ntimeout = 0', "deploy.timeout: got 0"),
        ('[deploy]\nsites = ["a", "b"]\nruoter = "tls/a:1"', "did you mean 'router'?"),
        ("[deploy]\ntimeout = 3.0", "deploy.sites: got nothing"),
    ],
)
def test_mistakes_in_the_table_name_the_key(records, table, part):
    with pytest.raises(Mistake, match=re.escape(part)):
        load(records, RECORDS.format(data=ALL), PEERS, table, name="wrong")


def test_mistakes_of_a_site(records, tmp_path):
    experiment = load(records, RECORDS.format(data=OWN), PEERS, RUN, DEPLOY)
    own, more = records / "north.csv", records / "all.csv"
    for name, data, part in (
        ("nroth", own, "did you mean 'north'?"),
        ("north", more, "records of 3 agents"),
        ("north", tmp_path / "none.csv", "expected a CSV file; there is none"),
        ("north", None, "thalweg join --data"),
    ):
        with pytest.raises(Mistake, match=re.escape(part)):
            prepare(experiment, name, data)
    swapped = load(records, RECORDS.format(data=ALL), PEERS, DEPLOY.replace('"north", "south"', '"south", "north"'))
    with pytest.raises(Mistake, match="expected the order of the data: north, south, west"):
        prepare(swapped, "north")
    lying = load(records, RECORDS.format(data=ALL), PEERS, DEPLOY, '[adversary]\nkind = "zero"\nagents = [1]\n')
    with pytest.raises(Mistake, match="simulated, not deployed"):
        prepare(lying, "north")
    no_features = load(records, RECORDS.format(data=OWN), SERVER, _with_server(DEPLOY))
    with pytest.raises(Mistake, match=r"problem\.features: got nothing"):
        prepare(no_features, "north-east")


@pytest.mark.slow
def test_a_budget_ends_a_deployed_run_where_it_ends_the_simulated_one(records, tmp_path):
    peers = PEERS.replace('"GradientTracking"', '"DGD"\nstep_size = 0.05')
    experiment = load(records, RECORDS.format(data=ALL), peers, RUN, NOISE)
    simulated, _ = experiment.run(tmp_path / "simulated", progress=False)
    prepared = prepare(experiment, "north")
    assert 0 < prepared.spending.rounds == simulated.rounds < 6


def test_features_of_another_name_and_other_files_are_named_on_both_sides(records, tmp_path):
    experiment = load(records, RECORDS.format(data=OWN), PEERS, RUN, DEPLOY)
    (tmp_path / "odd.csv").write_text((records / "south.csv").read_text().replace("age,dose", "age,dosis"))
    (tmp_path / "wide.csv").write_text(
        "\n".join(f"{line},{'bmi' if k == 0 else k}" for k, line in enumerate((records / "south.csv").read_text().split()))
    )
    for file, parts in (("odd.csv", ["has dosis", "has dose"]), ("wide.csv", ["only 'south' has bmi", "3", "2"])):
        data = lambda name, file=file: tmp_path / file if name == "south" else records / f"{name}.csv"
        with pytest.raises(Refused) as caught:
            deployed(experiment, data)
        assert "features" in str(caught.value)
        for part in parts:
            assert part in str(caught.value)


# -- policies ----------------------------------------------------------------------------------------


def test_a_policy_allows_what_it_lists_and_refuses_the_rest_with_every_reason(records, tmp_path):
    experiment = load(records, RECORDS.format(data=OWN), PEERS, RUN, DEPLOY)
    found, file = digest(experiment), tmp_path / "policy.toml"

    def check(text):
        file.write_text(text)
        Policy.load(file).check(experiment, found)

    check("")
    check(f'experiments = ["{found[:20]}"]\nalgorithms = ["GradientTracking"]\nmax_rounds = 6\nsites = {json.dumps(HOSPITALS)}')
    for text, part in (
        (f'experiments = ["{found[:19]}{"0" if found[19] != "0" else "1"}"]', "its hash is not among experiments"),
        ("experiments = []", "its hash"),
        ('algorithms = ["DGD"]', "got algorithm GradientTracking, allowed are DGD"),
        ("max_rounds = 5", "got 6 rounds, allowed are 5"),
        ('sites = ["north", "south"]', "got sites west"),
        ('[privacy]\nstages = ["gaussian", "laplace"]', "got no stage gaussian or laplace"),
        ('[privacy]\naggregates = ["secure_sum"]', "got aggregate none, compulsory is secure_sum"),
        ("[privacy]\nmax_epsilon = 1.0", "got no budget"),
    ):
        with pytest.raises(Forbidden, match=re.escape(part)):
            check(text)
    with pytest.raises(Forbidden, match=r"allowed are DGD; got 6 rounds"):
        check('algorithms = ["DGD"]\nmax_rounds = 5')
    table = '[aggregate]\nkind = "{}"\nrange = 4.0\n'
    experiment = load(records, RECORDS.format(data=ALL), SERVER, table.format("secure_sum"), RUN, _with_server(DEPLOY))
    check('[privacy]\naggregates = ["secure_sum"]')
    experiment = load(records, RECORDS.format(data=ALL), SERVER, table.format("homomorphic_sum"), RUN, _with_server(DEPLOY))
    with pytest.raises(Forbidden, match="got aggregate homomorphic_sum, compulsory is secure_sum"):
        check('[privacy]\naggregates = ["secure_sum"]')
    experiment = load(records, RECORDS.format(data=OWN), PEERS, RUN, NOISE, DEPLOY)
    check('[privacy]\nstages = ["gaussian"]\nmax_epsilon = 4.0\nmax_delta = 1e-5')
    with pytest.raises(Forbidden, match=re.escape("got epsilon = 4, allowed is up to 2")):
        check("[privacy]\nmax_epsilon = 2.0")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('algorithms = ["GradientTraking"]', "did you mean 'GradientTracking'?"),
        ('algorithm = ["DGD"]', "did you mean 'algorithms'?"),
        ('experiments = ["abc"]', "at least 16 digits"),
        ("max_rounds = -1", "max_rounds: got -1"),
        ('[privacy]\nstages = ["gausian"]', "did you mean 'gaussian'?"),
        ("[privacy]\nmax_epsilom = 1", "privacy.max_epsilom: got an unknown key"),
        ("[privacy", "not TOML"),
    ],
)
def test_mistakes_in_a_policy_name_the_file_and_the_key(tmp_path, text, part):
    """A name that no algorithm has would be a limit that nobody notices."""
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(Mistake, match=re.escape(part)) as caught:
        Policy.load(file)
    assert str(file) in str(caught.value)


def test_check_shows_the_hash_that_policies_name(records, tmp_path):
    experiment = load(records, RECORDS.format(data=OWN), PEERS, RUN, DEPLOY)
    policy = tmp_path / "policy.toml"
    policy.write_text(f'experiments = ["{digest(experiment)}"]')
    done = CliRunner().invoke(app, ["check", str(records / "study.toml"), "--policy", str(policy)])
    assert done.exit_code == 0, done.output
    assert digest(experiment) in done.stdout
    assert "allows it" in done.stdout
    policy.write_text("max_rounds = 1")
    done = CliRunner().invoke(app, ["check", str(records / "study.toml"), "--policy", str(policy)])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "got 6 rounds, allowed are 1" in done.stderr


# -- folders, logs, metrics --------------------------------------------------------------------------


STATUS = {
    "site": "va", "state": "running", "round": 12, "rounds": 90, "lag": 3, "epoch": 1, "members": ["a", "va"], "loss": 0.5,
    "sent": {"message": 800}, "received": {"message": 640}, "rejected": {"stale": 2}, "timed": 11, "seconds": 0.25,
}  # fmt: skip


def test_metrics_are_those_of_the_status_and_a_port_that_is_taken_is_named():
    prometheus = pytest.importorskip("prometheus_client.parser")
    metrics = Metrics(("127.0.0.1", 0), lambda: STATUS)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5) as answer:
            families = list(prometheus.text_string_to_metric_families(answer.read().decode()))
        with pytest.raises(ValueError, match=f"127.0.0.1:{metrics.port}, expected a free port"):
            Metrics(("127.0.0.1", metrics.port), lambda: STATUS)
    finally:
        metrics.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5)
    values = {(s.name, *(v for k, v in sorted(s.labels.items()) if k != "site")): s.value for f in families for s in f.samples}
    assert values == {
        ("thalweg_round",): 12, ("thalweg_rounds",): 90, ("thalweg_lag_rounds",): 3, ("thalweg_epoch",): 1,
        ("thalweg_members",): 2, ("thalweg_loss",): 0.5, ("thalweg_sent_bytes_total", "message"): 800,
        ("thalweg_received_bytes_total", "message"): 640, ("thalweg_rejected_total", "stale"): 2,
        ("thalweg_round_seconds_count",): 11, ("thalweg_round_seconds_sum",): 0.25,
    }  # fmt: skip


def test_addresses_of_metrics():
    assert address("9100") == ("127.0.0.1", 9100)
    assert address("0.0.0.0:9100") == ("0.0.0.0", 9100)
    for wrong in ("", "a", "99999", "host:"):
        with pytest.raises(ValueError, match="expected a port"):
            address(wrong)


def test_a_folder_is_that_of_one_living_site(tmp_path):
    folder = SiteFolder(tmp_path / "va")
    with folder.held():
        folder.write_status(STATUS)
        assert folder.alive
        assert folder.status()["state"] == "running"
        with pytest.raises(ValueError, match=r"a site runs in .* already"), folder.held():
            pass
    assert not folder.alive
    assert folder.status()["state"] == "died"
    folder.ask_to_stop()
    with folder.held():  # what was asked of an earlier process is not asked of this one
        assert not folder.asked_to_stop
    folder.write_answer({"outcome": "CONVERGED"}, {"slope": np.arange(3.0), "offset": np.zeros(())})
    np.testing.assert_array_equal(folder.answer()["x"]["x/slope"], np.arange(3.0))
    with pytest.raises(ValueError, match="a run that has ended"), folder.held():
        pass
    folder.write_answer({"outcome": "INTERRUPTED"}, None)
    with folder.held():
        pass


def test_answers_of_different_experiments_and_twice_the_same_are_not_merged(tmp_path):
    def ended(place, site, found):
        answer = {"site": site, "sites": ["a", "b"], "config": {"hash": found}}
        folder = SiteFolder(tmp_path / place)
        folder.path.mkdir()
        folder.write_answer(answer, None)
        return folder

    one, other, again = ended("1", "a", "x"), ended("2", "b", "y"), ended("3", "a", "x")
    for folders, part in (((one, other), "2 experiments"), ((one, again), "two folders of the site 'a'"), ((), "no folder")):
        with pytest.raises(ValueError, match=part):
            merged(folders)


def test_what_happens_to_a_post_is_noted_logged_and_can_be_ended(tmp_path):
    exchange = Exchange()
    with logged(tmp_path / "log.jsonl", "a") as log:
        post, other = Watched(exchange.join("a"), log), exchange.join("b")
        assert post.present() == {"b"}
        for k in range(3):
            post.send("b", Letter(Kind.MESSAGE, 0, k, body=b"1234"))
            other.send("a", Letter(Kind.MESSAGE, 0, k + 5, body=b"12"))
            while post.receive(5.0) is None:  # somebody came
                pass
        assert (post.round, post.others, post.timed) == (2, {"b": (0, 7)}, 1)
        assert post.receive(0.01) is None
        other.close()
        assert post.present() == frozenset()
        post.stop("enough")
        with pytest.raises(Stopped, match="enough"):
            post.receive(60.0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["site came", "epoch", "site left"]
    assert all(line["site"] == "a" and line["level"] == "info" and line["time"].endswith("+00:00") for line in lines)
    assert lines[1] | {"epoch": 0, "round": 0} == lines[1]
