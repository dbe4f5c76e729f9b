"""Keys of a federation: what is made, who may read it, and that whatever is wrong with it is said in one line."""

import datetime
import json
import shutil
import stat
import subprocess

import pytest

from thalweg._extras import require
from thalweg.deploy import keys
from thalweg.deploy.identity import Identity

SITES = ["cleveland", "hungary", "switzerland", "va"]
AT = ["tls/127.0.0.1:7447"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = keys.init(tmp_path_factory.mktemp("keys") / "federation", SITES)
    keys.router(folder, listen=AT)
    return folder


@pytest.fixture
def copied(federation, tmp_path):
    return shutil.copytree(federation, tmp_path / "federation")


def complaint(call, *args, **kwargs):
    """The message of a mistake, which is one line."""
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_site_gets_one_folder_with_all_it_needs_and_nothing_more(federation, tmp_path):
    own = federation / "sites" / "va"
    assert {path.name for path in own.iterdir()} == {"ca.pem", "cert.pem", "key.pem"}
    taken = shutil.copytree(own, tmp_path / "anywhere")
    assert Identity.load(taken).name == Identity.load(federation, "va").name == "va"
    assert "private" not in repr(Identity.load(taken)).lower()


def test_private_keys_are_for_their_owner_alone(federation):
    private = [federation / "ca.key", federation / "routers" / "router.json5", *federation.glob("sites/*/key.pem")]
    assert len(private) == 2 + len(SITES)
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(federation.rglob("*.new"))


def test_openssl_takes_the_certificates_for_both_ends_of_a_connection(federation):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")
    for purpose in ("sslclient", "sslserver"):
        command = [openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem", "sites/va/cert.pem"]
        done = subprocess.run(command, cwd=federation, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr


def test_add_renew_and_show(copied):
    assert Identity.load(keys.add(copied, "long-beach")).name == "long-beach"
    before, fingerprints = Identity.load(copied, "va"), {name: mark for name, _, mark in keys.show(copied)}
    keys.renew(copied, "va", days=10)
    after = Identity.load(copied, "va")
    assert after.key.public_key() != before.key.public_key()
    shown = {name: (until, mark) for name, until, mark in keys.show(copied)}
    assert set(shown) == {*SITES, "long-beach"}
    assert {name for name, (_, mark) in shown.items() if mark != fingerprints[name]} == {"va"}
    left = shown["va"][0] - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=9) < left <= datetime.timedelta(days=10)


def test_no_site_outlives_the_authority(copied):
    keys.renew(copied, "va", days=10**5)
    ca = require("cryptography.x509", "net").load_pem_x509_certificate((copied / "ca.pem").read_bytes())
    assert {name: until for name, until, _ in keys.show(copied)}["va"] == ca.not_valid_after_utc


def test_a_routers_file_is_whole_and_names_the_sites(copied):
    keys.add(copied, "paris")
    path = keys.router(copied, listen=["tls/0.0.0.0:7447"], connect=AT, name="hub")
    written = json.loads(path.read_text())
    assert written["mode"] == "router" and written["listen"]["endpoints"] == ["tls/0.0.0.0:7447"]
    subjects = {name for subject in written["access_control"]["subjects"] for name in subject["cert_common_names"]}
    assert subjects == {*SITES, "paris", "router", "hub"}
    assert written["access_control"]["default_permission"] == "deny"
    require("zenoh", "net").Config.from_file(path)


def test_what_cannot_be_made(federation, tmp_path):
    assert "has an authority already" in complaint(keys.init, federation, ["a"])
    assert "expected at least one" in complaint(keys.init, tmp_path / "none", [])
    assert "two sites are called 'a'" in complaint(keys.init, tmp_path / "twice", ["a", "b", "a"])
    assert "expected a positive number" in complaint(keys.init, tmp_path / "late", ["a"], days=0)
    for name in ("a b", "", "a/b", "*", "..", "@here", "é", "a" * 65, "a.b"):
        assert "expected 1 to 64 letters" in complaint(keys.init, tmp_path / "bad", [name])
        assert "expected 1 to 64 letters" in complaint(keys.add, federation, name)
    assert not any((tmp_path / name).exists() for name in ("none", "twice", "late", "bad"))
    assert "thalweg keys renew" in complaint(keys.add, federation, "va")
    assert "thalweg keys add" in complaint(keys.renew, federation, "paris")
    assert "thalweg keys init" in complaint(keys.add, tmp_path, "paris")
    assert "a site is called 'va'" in complaint(keys.router, federation, listen=AT, name="va")
    assert "a router is called 'router'" in complaint(keys.add, federation, "router")
    assert "expected tls/host:port" in complaint(keys.router, federation, listen=["tcp/127.0.0.1:1"])


def test_an_identity_that_is_not_right_is_refused(copied, tmp_path):
    sites = copied / "sites"
    assert "is missing" in complaint(Identity.load, copied, "paris")
    assert "name the site" in complaint(Identity.load, copied)
    assert "is of 'va', expected 'hungary'" in complaint(Identity.load, sites / "va", "hungary")
    keys.renew(copied, "va", days=1e-9)
    assert "expired" in complaint(Identity.load, copied, "va")
    assert "thalweg keys renew" in complaint(Identity.load, copied, "va")
    other = keys.init(tmp_path / "other", ["cleveland"])
    shutil.copy(other / "sites" / "cleveland" / "cert.pem", sites / "cleveland")
    assert "another authority" in complaint(Identity.load, copied, "cleveland")
    shutil.copy(sites / "hungary" / "key.pem", sites / "switzerland" / "key.pem")
    assert "is not the key of" in complaint(Identity.load, copied, "switzerland")
    (sites / "hungary" / "key.pem").write_text("nonsense")
    assert "is not a private key" in complaint(Identity.load, copied, "hungary")
    (sites / "hungary" / "cert.pem").write_text("nonsense")
    assert "is not a certificate" in complaint(Identity.load, copied, "hungary")
    assert "is not a certificate" in complaint(keys.show, copied)
    assert Identity.load(keys.renew(copied, "hungary")).name == "hungary"
    shutil.copy(copied / "ca.pem", sites / "hungary" / "cert.pem")
    assert "not one of a site" in complaint(Identity.load, copied, "hungary")
    (sites / "hungary" / "key.pem").unlink()
    (sites / "hungary" / "key.pem").mkdir()
    assert "cannot be read" in complaint(Identity.load, copied, "hungary")
