"""Instances read from files and answers of other systems."""

import json
from typing import Any

import pytest

from rollouts import importing_ansible, importing_sources
from rollouts.importing_sources import SourceError, as_name, as_port, from_csv

INI = """\
# The shop.
gate.example.com ansible_host=10.0.0.9

[web]
web[01:03:2].example.com:2222 http_port=8081  # every second one
db-a  ansible_host=10.0.1.1 note='two words'

[shop:children]
web
cache

[cache]
cache[a:b]
; db-b

[shop:vars]
http_port=8080

[cache:vars]
http_port = 9090
"""
YAML = """\
all:
  hosts:
    gate.example.com: {ansible_host: 10.0.0.9}
  vars:
    token: !vault |
      $ANSIBLE_VAULT;1.1;AES256
    http_port: 80
  children:
    shop:
      vars: {http_port: 8080}
      children:
        web:
          hosts:
            web[01:03:2].example.com: {http_port: 8081}
            db-a: {ansible_host: 10.0.1.1}
        cache:
          vars: {http_port: 9090}
          hosts: {cachea: , cacheb: }
"""
LIST = {
    "_meta": {
        "hostvars": {
            "web01.example.com": {"http_port": 8081},
            "web03.example.com": {"http_port": 8081},
            "db-a": {"ansible_host": "10.0.1.1", "http_port": 8080},
            "cachea": {"http_port": 9090},
            "cacheb": {"http_port": 9090},
        }
    },
    "all": {"children": ["ungrouped", "shop"]},
    "shop": {"children": ["web", "cache"]},
    "web": {"hosts": ["web01.example.com", "web03.example.com", "db-a"]},
    "cache": {"hosts": ["cachea", "cacheb"]},
}
SHOP = [
    ("web01-example-com", "web01.example.com", 8081),
    ("web03-example-com", "web03.example.com", 8081),
    ("db-a", "10.0.1.1", 8080),
    ("cachea", "cachea", 9090),
    ("cacheb", "cacheb", 9090),
]


def ansible(text: str, group: str = "all", port: int | None = 80, port_var: str = "") -> list[Any]:
    found = importing_ansible.instances(text, group, port, port_var)
    return [(one["name"], one["host"], one["port"]) for one in found]


@pytest.mark.parametrize("text", [INI, YAML, json.dumps(LIST)], ids=["INI", "YAML", "list"])
def test_a_group_is_read_with_its_children_ranges_and_ports(text: str) -> None:
    """The three forms say the same; a host's variable wins, then a child's, then a parent's."""
    assert ansible(text, "shop", None, "http_port") == SHOP
    assert ansible(text, "cache") == [("cachea", "cachea", 80), ("cacheb", "cacheb", 80)]


def test_hosts_without_a_group_are_among_all() -> None:
    """`all` is every host, wherever it is named."""
    assert ("gate-example-com", "10.0.0.9", 80) in ansible(INI)
    assert ("gate-example-com", "10.0.0.9", 80) in ansible(YAML)
    assert ansible("one\ntwo\n") == [("one", "one", 80), ("two", "two", 80)]


def test_the_port_of_ssh_is_not_that_of_the_application() -> None:
    """`ansible_port` is left alone; without any port the refusal says how to give one."""
    with pytest.raises(SourceError, match="one: no port is known: give one with --port"):
        ansible("[web]\none ansible_port=2222\n", "web", None)
    with pytest.raises(SourceError, match="one: the port 'many' is none"):
        ansible("[web]\none app=many\n", "web", 80, "app")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("web[08:10]", ["web08", "web09", "web10"]),
        ("web[8:10]", ["web8", "web9", "web10"]),
        ("[a:c:2]-[1:2]", ["a-1", "a-2", "c-1", "c-2"]),
        ("10.0.0.[1:2]", ["10.0.0.1", "10.0.0.2"]),
        ("2001:db8::1", ["2001:db8::1"]),
        ("web1:2222", ["web1"]),
    ],
)
def test_a_range_stands_for_its_names(pattern: str, names: list[str]) -> None:
    """With its leading zeros and its step, as Ansible has it."""
    assert importing_ansible.expand(pattern) == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[web]\nweb[1:999999999]\n", "more than 5000 hosts"),
        ("[web]\n[1:99][1:99]\n[2:1]\n", "stands for 9801 hosts"),
        ("[web]\nw[2:1]\n", "stands for 0 hosts"),
        ("[web]\none 'two\n", "line 2: No closing quotation"),
        ("[web]\none two\n", "line 2: 'two' must be NAME=VALUE"),
        ("[web]\none ansible_host='{{ address }}'\n", "one: ansible_host .* is no plain text"),
        ("web: [one, two]\n", "web must map names"),
        ("web:\n  hosts: one\n", "web.hosts must map names"),
        ("web: {hosts: {one: }\n", "neither INI nor YAML"),
        ("{", "is no JSON"),
        ("{" + '"a":' * 100_000, "is no JSON"),
        ('{"web": {"hosts": "one"}}', "web.hosts must be a list of names"),
        ("[db]\none\n", "there is no group web; there are: db, ungrouped"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, words: str) -> None:
    """In bounded time and memory, whatever a file asks for."""
    with pytest.raises(SourceError, match=words):
        ansible(text, "web")


def test_groups_in_a_circle_and_anchors_in_themselves_end() -> None:
    """Each group is read once, however it is reached."""
    assert ansible("[web:children]\ndb\n[db:children]\nweb\n[db]\none\n", "web") == [
        ("one", "one", 80)
    ]
    text = "web: &web\n  hosts: {one: }\n  children: {web: *web, db: *web}\n"
    assert ansible(text, "web") == [("one", "one", 80)]


def test_a_file_of_rows_is_read_as_it_is_exported() -> None:
    """Rows of other services are left out, empty fields are not told, the version is not ours."""
    text = (
        "\ufeffservice,name,host,port,server,slot,zone,active,version\n"
        "shop,web-01,10.0.0.1,8080,srv-1,blue,a,True,v1\n"
        "shop,web-02,10.0.0.2,,,,,False,\n"
        "blog,web-01,10.0.1.1,8080,,,,True,v7\n"
    )
    assert from_csv(text, "shop", 80) == [
        {
            "name": "web-01",
            "host": "10.0.0.1",
            "port": 8080,
            "server": "srv-1",
            "slot": "blue",
            "zone": "a",
            "active": True,
        },
        {"name": "web-02", "host": "10.0.0.2", "port": 80, "active": False},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no name"),
        ("name,port\nweb,80\n", "there is no host"),
        ("name,host,colour\nweb,h,red\n", "unknown columns: colour"),
        ("name,host\nweb\n", "the row of web has not as many fields"),
        ("name,host\nweb,h,80\n", "the row of web has not as many fields"),
        ("name,host\nweb,h\n", "web: no port is known"),
        ("name,host,port\nweb,h,99999\n", "web: the port '99999' is none"),
        ("name,host,port,active\nweb,h,80,perhaps\n", "web: active must be true or false"),
        ('name,host\n"web', "line 1: unexpected end of data"),
    ],
)
def test_a_file_of_rows_that_is_wrong_is_refused(text: str, words: str) -> None:
    """With the row that is at fault."""
    with pytest.raises(SourceError, match=words):
        from_csv(text, "shop", None)


def container(*ports: tuple[str, int, int], mode: str = "bridge") -> dict[str, Any]:
    """What a Docker Engine says of a container that publishes (IP, its port, public port)."""
    return {
        "Names": ["/shop_Web.1"],
        "HostConfig": {"NetworkMode": mode},
        "Ports": [
            {"IP": address, "PrivatePort": private, "PublicPort": public, "Type": "tcp"}
            for address, private, public in ports
        ],
    }


def read(found: dict[str, Any], port: int | None) -> tuple[str, str, str, int]:
    entry = importing_sources._container(found, "docker-1", port)
    return entry["name"], entry["server"], entry["host"], entry["port"]


def test_a_container_is_where_it_is_published() -> None:
    """On the engine's host, or on the one address that it is published on."""
    everywhere = container(("0.0.0.0", 80, 8001), ("::", 80, 8001))
    assert read(everywhere, None) == ("shop-web-1", "shop_Web.1", "docker-1", 8001)
    two = container(("10.0.0.1", 80, 8001), ("10.0.0.1", 9090, 9001))
    assert read(two, 9090) == ("shop-web-1", "shop_Web.1", "10.0.0.1", 9001)
    assert read(container(mode="host"), 8080)[2:] == ("docker-1", 8080)
    for found, words in ((two, "more than one port"), (container(), "no port")):
        with pytest.raises(SourceError, match=f"shop_Web.1 publishes {words}"):
            read(found, None)


def test_names_are_made_fit_and_ports_are_checked() -> None:
    """What a name or a port can't be is not guessed at."""
    assert as_name("Web_01.Example.com") == "web-01-example-com"
    assert as_port(" 80 ", "web") == 80
    for wrong in ("0", "-1", "70000", "1e3", True, "80; rm"):
        with pytest.raises(SourceError, match=r"^web: "):
            as_port(wrong, "web")
