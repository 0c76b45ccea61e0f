"""Host keys in PostgreSQL: kept when met, trusted when confirmed, by command and in the admin."""

import io

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.test import Client

import dashboard.admin_hosts  # registers
from rollouts.hostkeys import UNCONFIRMED_KEPT, ConfirmedHosts, fingerprint
from rollouts.models import HostKey, Service
from tests.integration.admin_pages import act, admin, list_url, messages, page_url, staff
from tests.integration.factories import make_service
from tests.sshd import HOST, Sshds, sshds

__all__ = ["admin", "dashboard", "sshds"]
pytestmark = pytest.mark.django_db

HOSTS = ConfirmedHosts()
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqxvEEQmNQ3UcRTNJ4sSfXpZnQ4Yy2ZVZxG9G0dM1pF"


def met(key: str = KEY, host: str = "web-01", port: int = 22) -> HostKey:
    """Return what is stored of a key that a host showed."""
    async_to_sync(HOSTS.met)(host, port, key)
    return HostKey.objects.get(host=host, port=port, fingerprint=fingerprint(key))


def trusted(host: str = "web-01", port: int = 22) -> list[str]:
    """Return the keys that a host is trusted with."""
    return list(async_to_sync(HOSTS.keys)(host, port))


def made_up(number: int) -> str:
    """Return a key that differs from others."""
    return f"ssh-ed25519 {number:04}AAAA"


def run(*arguments: str) -> tuple[int, str, str]:
    """Return exit status, output and errors of `manage.py hostkeys`."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    try:
        call_command("hostkeys", *arguments, stdout=out, stderr=err)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, out.getvalue(), err.getvalue()


def test_a_key_that_was_met_is_not_trusted() -> None:
    """Until a person confirms it; for that host and port alone."""
    row = met()
    assert trusted() == []
    run("confirm", "web-01", row.fingerprint)
    assert trusted() == [KEY]
    assert trusted(port=2222) == trusted("web-02") == []


def test_a_key_is_kept_once_however_often_it_is_met() -> None:
    """And stays confirmed."""
    row = met()
    run("confirm", "web-01", row.fingerprint)
    assert met().pk == row.pk
    assert trusted() == [KEY]


def test_a_host_that_shows_ever_new_keys_fills_nothing() -> None:
    """The last ones are kept, and the confirmed one in any case."""
    run("confirm", "web-01", met().fingerprint)
    other = met(host="web-02")
    for number in range(UNCONFIRMED_KEPT + 5):
        met(made_up(number))
    kept = HostKey.objects.filter(host="web-01", confirmed_at__isnull=True)
    assert kept.count() == UNCONFIRMED_KEPT
    assert not kept.filter(key=made_up(0)).exists()
    assert kept.filter(key=made_up(UNCONFIRMED_KEPT + 4)).exists()
    assert trusted() == [KEY]
    other.refresh_from_db()


def test_a_fingerprint_is_what_ssh_keygen_shows(sshds: Sshds) -> None:
    """So that a person can compare them."""
    host = sshds.hosts[0]
    assert fingerprint(host.host_key) == host.fingerprint()


@pytest.fixture
def service(sshds: Sshds) -> Service:
    """A service with two instances on one of the hosts, reached through the other."""
    target, jump = sshds.hosts
    hosts = {"web-01": target.address, "web-02": target.address}
    ssh = sshds.settings(hosts=hosts, jump=f"{sshds.user}@{jump.address}")
    return make_service(2, driver={"kind": "ssh", "update": ["true"], "ssh": ssh})


def test_the_hosts_of_a_service_are_met_and_confirmed_one_by_one(
    service: Service, sshds: Sshds
) -> None:
    """The jump host first, for the others lie behind it; a scan confirms nothing."""
    target, jump = sshds.hosts
    for host in (jump, target):
        status, out, err = run("scan", service.name)
        assert (status, err) == (0, "")
        line = f"{host.address}  {host.fingerprint()}  ssh-ed25519  not confirmed\n"
        assert line in out
        assert not trusted(HOST, host.port)
        status, out, err = run("confirm", host.address, host.fingerprint())
        assert status == 0
        assert "confirmed by" in out
        assert trusted(HOST, host.port) == [host.host_key]
    status, out, err = run("scan", service.name)
    assert (status, out.count(" confirmed by "), err) == (0, 2, "")
    assert run("list") == run()
    assert run()[1].count("\n") == 2


def test_a_host_that_can_not_be_met_is_told(sshds: Sshds) -> None:
    """Once, though several instances are there."""
    sshds_free = "127.0.0.1:1"  # tcpmux, which nobody has
    ssh = sshds.settings(hosts={"web-01": sshds_free, "web-02": sshds_free})
    service = make_service(2, driver={"kind": "ssh", "update": ["true"], "ssh": ssh})
    status, out, err = run("scan", service.name)
    assert (status, out, err.count("no sshd listens")) == (2, "", 1)


def test_what_makes_no_sense_is_refused() -> None:
    """A key that nobody saw, a host that is none, a service without SSH, or that is not there."""
    make_service(name="plain")
    for arguments, words in (
        (("confirm", "web-01", "SHA256:abc"), "showed no key SHA256:abc"),
        (("confirm", "we b", "SHA256:abc"), "must be HOST"),
        (("forget", "web-01"), "no such key"),
        (("scan", "plain"), "goes over SSH"),
        (("scan", "nothing"), "there is no service nothing"),
    ):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert words in err


def test_a_forgotten_key_is_trusted_no_more() -> None:
    """One, or all of a host."""
    for number in range(3):
        run("confirm", "web-01", met(made_up(number)).fingerprint)
    run("forget", "web-01", fingerprint(made_up(1)))
    assert sorted(trusted()) == [made_up(0), made_up(2)]
    assert run("forget", "web-01")[1].count("forgotten") == 2
    assert not HostKey.objects.exists()


def test_keys_are_confirmed_in_the_admin(admin: Client) -> None:
    """By name, at a time, and the history says so."""
    row = met()
    assert messages(act(admin, "confirm", [row])) == [f"Confirmed: {row}."]
    row.refresh_from_db()
    assert row.confirmed_by == "root"
    assert row.confirmed_at is not None
    assert LogEntry.objects.get(object_id=str(row.pk)).change_message == "Confirmed."
    assert "Confirmed: none" in messages(act(admin, "confirm", [row]))[0]


def test_the_list_tells_a_changed_key_from_a_new_one(admin: Client) -> None:
    """It is the one that deserves a second look."""
    run("confirm", "web-01", met().fingerprint)
    met(made_up(1))
    met(made_up(2), host="web-02", port=2222)
    content = admin.get(list_url(HostKey)).content.decode()
    assert content.count("THE KEY HAS CHANGED") == 1
    assert content.count("not confirmed: compare it") == 1
    assert "web-02:2222" in content
    assert fingerprint(KEY) in content
    content = admin.get(list_url(HostKey), {"confirmed": "yes"}).content.decode()
    assert fingerprint(made_up(1)) not in content


def test_keys_are_forgotten_in_the_admin(admin: Client) -> None:
    """And who did it is kept."""
    row = met()
    assert messages(act(admin, "forget", [row])) == [f"Forgotten: {row}."]
    assert not HostKey.objects.exists()
    assert LogEntry.objects.get().change_message == "Forgotten."


def test_keys_can_not_be_edited_or_added_in_the_admin(admin: Client) -> None:
    """They come from hosts, and a person has nothing to type."""
    row = met()
    assert admin.get(list_url(HostKey) + "add/").status_code == 403
    admin.post(page_url(row), {"key": made_up(1), "confirmed_at_0": "2026-01-01"})
    row.refresh_from_db()
    assert row.key == KEY
    assert row.confirmed_at is None


def test_who_may_only_look_confirms_nothing() -> None:
    """The action is not theirs."""
    row = met()
    viewer = staff("viewer", "view_hostkey")
    assert fingerprint(KEY) in viewer.get(list_url(HostKey)).content.decode()
    act(viewer, "confirm", [row])
    act(viewer, "forget", [row])
    row.refresh_from_db()
    assert row.confirmed_at is None
