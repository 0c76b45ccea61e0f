"""Settings of SSH: what is taken, what is refused with words, and deadlines in a host's time."""

import re
from typing import Any

import pytest
import yaml

from dashboard.local.places import CHECKOUT
from rollouts import balancers, drivers
from rollouts.adapters import SettingsError
from rollouts.facts import Instance
from rollouts.ssh import Place, SshSettings
from rollouts.ssh_keeper import Deadlines

WEB = Instance("web-01", "10.0.0.11", 8080, "web-01")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("web-01", Place("web-01")),
        ("web-01.example.com:2222", Place("web-01.example.com", 2222)),
        ("deploy@10.0.0.1:22", Place("10.0.0.1", 22, "deploy")),
        ("fe80::1", Place("fe80::1")),
        ("deploy@[fe80::1]:2222", Place("fe80::1", 2222, "deploy")),
    ],
)
def test_a_place_is_read_as_people_write_it(text: str, place: Place) -> None:
    """Host, port and user, IPv6 in brackets where a port follows."""
    assert Place.parse(text) == place


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=id", "a b", "web:0", "web:65536", "web:x", "a@b@c", "we\nb", "@web"],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    """Nothing that could be an option, or another command, passes for a host."""
    with pytest.raises(ValueError, match="must be HOST"):
        Place.parse(text)


def test_what_is_not_said_is_the_usual() -> None:
    """Port 22, the worker's own user name, and a key that an agent has."""
    settings = SshSettings.parse(None)
    assert settings == SshSettings(user="", port=22, key="", agent=True, jump=None, hosts={})
    assert not SshSettings.parse({"key": "/etc/lockgate/key"}).agent


def test_an_instance_is_found_where_hosts_says() -> None:
    """By its name first, then by its host name, else at the host name itself."""
    raw: dict[str, Any] = {"user": "deploy", "port": 2200}
    hosts = {"web-01": "mgmt-1", "10.0.0.12": "root@mgmt-2:22"}
    settings = SshSettings.parse(raw | {"hosts": hosts})
    assert settings.place(settings.host_of(WEB)) == Place("mgmt-1", 2200, "deploy")
    assert settings.place("10.0.0.12") == Place("mgmt-2", 22, "root")
    plain = SshSettings.parse(raw)
    assert plain.place(plain.host_of(WEB)) == Place("10.0.0.11", 2200, "deploy")


def test_every_wrong_setting_is_named_at_once() -> None:
    """With what would be right about it."""
    ssh = {
        "user": "a b",
        "port": True,
        "key": "id_ed25519",
        "agent": "yes",
        "jump": "-x",
        "hosts": {"web-01": 7},
        "password": "secret",
    }
    with pytest.raises(SettingsError) as refused:
        drivers.check({"kind": "ssh", "update": [], "version": ["{nope}"], "ssh": ssh, "shell": 1})
    errors = refused.value.errors
    assert set(errors) == {"update", "version", "ssh", "shell"}
    for key in ssh:
        assert key in errors["ssh"]
    assert "secret" not in errors["ssh"]


def test_without_an_agent_there_has_to_be_a_key() -> None:
    """There is no other way to log in."""
    with pytest.raises(ValueError, match="key is missing"):
        SshSettings.parse({"agent": False})


def test_a_deadline_is_never_later_than_what_is_left() -> None:
    """However long the host's word was under way, and however old our own is when it arrives."""
    started, delay = 1000.0, 3.0  # by the host's clock, which is 990 s ahead of ours
    deadlines = Deadlines(int(started * 100), here=10.0 + delay)
    word = deadlines.until(now=20.0, left=5.0)
    assert int(word) / 100 <= 20.0 + 5.0 + 990.0
    assert int(word) / 100 == pytest.approx(20.0 + 5.0 + 990.0 - delay, abs=0.02)
    assert int(deadlines.until(now=20.0, left=-1e9)) == 0


@pytest.mark.parametrize("page", ["ssh.md", "systemd.md"])
def test_the_inventory_in_the_docs_is_taken(page: str) -> None:
    """As it stands there, driver and balancer."""
    text = (CHECKOUT / "docs" / page).read_text()
    blocks = re.findall(r"```yaml\n(services:.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        for service in yaml.safe_load(block)["services"].values():
            drivers.check(service["driver"])
            balancers.check(service["balancer"])
