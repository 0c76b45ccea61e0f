"""Import on real PostgreSQL: from files and from a real HAProxy; all of it or nothing."""

import json
import subprocess
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
import yaml
from django.core.management import call_command

from dashboard.local import binaries
from dashboard.local.docker_engine import DockerEngine, make_image, shared
from dashboard.local.errors import LocalError
from rollouts.models import Instance, Service
from tests.dockerd import running_dockerd
from tests.integration.factories import make_service
from tests.servers import until

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = "name,host,port,slot\nweb-01,127.0.0.9,8080,\nweb-05,127.0.0.5,8080,green\n"


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str = ROWS) -> str:
        path = tmp_path / "instances.csv"
        path.write_text(text)
        return str(path)

    return write


def run(*arguments: str) -> tuple[str, str]:
    """What the command prints, and what it complains of."""
    out, err = StringIO(), StringIO()
    call_command("import_instances", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def refused(*arguments: str) -> str:
    err = StringIO()
    with pytest.raises(SystemExit) as exit_:
        call_command("import_instances", *arguments, stdout=StringIO(), stderr=err)
    assert exit_.value.code == 2
    assert err.getvalue().endswith("Refused: nothing was changed.\n")
    return err.getvalue()


def stored() -> list[tuple[str, str, int, str, str]]:
    return list(Instance.objects.values_list("name", "hostname", "port", "server", "slot"))


def test_what_is_printed_is_an_inventory_that_changes_only_what_differs(
    rows: Callable[[str], str], tmp_path: Path
) -> None:
    """Without --apply nothing is stored; the file can be given to `manage.py inventory`."""
    make_service(2)
    Instance.objects.filter(name="web-01").update(slot="blue", zone="a", server="srv-1")
    before = stored()
    printed, _ = run("shop", "--from-csv", rows(ROWS))
    assert stored() == before
    shop = yaml.safe_load(printed)["services"]["shop"]
    assert shop["balancer"]["backend"] == "app"
    assert shop["instances"] == [
        # What the source does not tell stays as it is.
        {
            "name": "web-01",
            "host": "127.0.0.9",
            "port": 8080,
            "server": "srv-1",
            "slot": "blue",
            "zone": "a",
        },
        {"name": "web-05", "host": "127.0.0.5", "port": 8080, "slot": "green"},
    ]
    file = tmp_path / "inventory.yaml"
    file.write_text(printed)
    call_command("inventory", str(file), stdout=StringIO())
    assert stored() == [
        ("web-01", "127.0.0.9", 8080, "srv-1", "blue"),
        before[1],
        ("web-05", "127.0.0.5", 8080, "web-05", "green"),
    ]


def test_applied_it_adds_and_changes_and_deletes_nothing(rows: Callable[[str], str]) -> None:
    """What was not found is named and left; applied again there is nothing to do."""
    make_service(2)
    make_service(1, name="blog")
    printed, _ = run("shop", "--from-csv", rows(ROWS), "--apply")
    assert printed.splitlines() == [
        "~ instance shop/web-01: host: 127.0.0.1 -> 127.0.0.9; port: 9 -> 8080",
        "+ instance shop/web-05",
        "? instance shop/web-02: was not found, and is left as it is",
        "Done: 1 created, 1 changed.",
    ]
    assert Instance.objects.filter(service__name="shop").count() == 3
    again, _ = run("shop", "--from-csv", rows(ROWS), "--apply")
    assert again.splitlines()[-1] == "Nothing to change."


def test_one_that_is_refused_refuses_all_and_each_is_named(rows: Callable[[str], str]) -> None:
    """As with an inventory file: every error, and nothing stored."""
    make_service(1)
    before = stored()
    text = "name,host,port,slot\nweb-02,10.0.0.2,80,\nweb-03,127.1,80,\nweb-04,10.0.0.4,80,red\n"
    for apply in ([], ["--apply"]):
        told = refused("shop", "--from-csv", rows(text), *apply)
        assert "services.shop.instances[1].host: must be a host name or an IP address" in told
        assert "services.shop.instances[2].slot" in told
    assert stored() == before


def test_who_is_stored_is_known_by_server_and_address_too(rows: Callable[[str], str]) -> None:
    """A source's other name for the same place makes no second instance of it."""
    make_service(2)
    text = "name,host,port,server\nfirst,127.0.0.1,9,\nother,10.0.0.7,80,web-02\n"
    run("shop", "--from-csv", rows(text), "--apply")
    assert stored() == [
        ("web-01", "127.0.0.1", 9, "web-01", ""),
        ("web-02", "10.0.0.7", 80, "web-02", ""),
    ]


def test_a_new_service_is_printed_and_applied_only_with_its_adapters(
    rows: Callable[[str], str],
) -> None:
    """The fragment says what is there; driver and balancer are for a person to add."""
    printed, told = run("shop", "--from-csv", rows(ROWS))
    assert set(yaml.safe_load(printed)["services"]["shop"]) == {"instances"}
    assert told == "There is no service shop: add its driver and balancer.\n"
    assert "services.shop.driver: is missing" in refused(
        "shop", "--from-csv", rows(ROWS), "--apply"
    )
    assert not Service.objects.exists()


def test_files_are_bounded_and_have_to_be_there(rows: Callable[[str], str]) -> None:
    """A file that can't be read is refused with the reason."""
    assert "can't be read: No such file" in refused("shop", "--from-csv", "/nowhere.csv")
    assert "at most 4 MiB" in refused("shop", "--from-csv", rows("x" * (4 * 2**20 + 1)))
    assert "at most 4 MiB" in refused("shop", "--from-ansible", "/dev/zero")
    assert "no instance was found" in refused("shop", "--from-csv", rows("name,host\n"))


def test_an_ansible_group_is_imported(tmp_path: Path) -> None:
    """As a file, and as what `ansible-inventory --list` prints."""
    make_service(1)
    file = tmp_path / "hosts"
    file.write_text("[web]\nweb-[02:03] ansible_host=10.0.0.2 app_port=8080\n[db]\ndb-01\n")
    told = refused("shop", "--from-ansible", str(file), "--group", "web", "--port", "80")
    assert "instances[1].port: is that of instances[0] already" in told
    file.write_text(json.dumps({"web": {"hosts": ["web-02", "web-03"]}}))
    run("shop", "--from-ansible", str(file), "--group", "web", "--port", "80", "--apply")
    assert [name for name, *_ in stored()] == ["web-01", "web-02", "web-03"]


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real HAProxy's runtime API."""
    try:
        program = binaries.haproxy()
    except LocalError as error:
        pytest.skip(f"optional: {error}")
    folder = tmp_path_factory.mktemp("haproxy")
    config = folder / "haproxy.cfg"
    config.write_text(
        f"global\n  stats socket {folder}/admin.sock level admin\n"
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n"
        "backend app\n  server web_01 10.0.0.11:8080\n  server web_02 [2001:db8::2]:8081\n"
        f"backend odd\n  server local unix@{folder}/app.sock\n"
    )
    process = subprocess.Popen([program, "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        until((folder / "admin.sock").exists, what="HAProxy answers")
        yield f"unix:{folder}/admin.sock"
    finally:
        process.kill()
        process.wait(10)


def test_a_backend_of_a_real_haproxy_is_imported(haproxy: str) -> None:
    """Names are made fit, and the balancer's own name is kept as the server."""
    make_service(0)
    run("shop", "--from-haproxy", haproxy, "--backend", "app", "--apply")
    assert stored() == [
        ("web-01", "10.0.0.11", 8080, "web_01", ""),
        ("web-02", "2001:db8::2", 8081, "web_02", ""),
    ]
    told = refused("shop", "--from-haproxy", haproxy, "--backend", "odd")
    assert "local: HAProxy knows no address of it" in told
    assert "can't find" in refused("shop", "--from-haproxy", haproxy, "--backend", "none").lower()
    assert "--backend must be" in refused("shop", "--from-haproxy", haproxy, "--backend", "a;b")
    assert "can't be reached" in refused(
        "shop", "--from-haproxy", "unix:/nowhere.sock", "--backend", "app"
    )


@pytest.fixture(scope="module")
def dockerd() -> Iterator[DockerEngine]:
    """A real engine with two containers of the host's network and one of another label."""
    with running_dockerd() as engine:
        client = engine.client()
        make_image(client, "shop:v1", {}, env={"PATH": "/usr/bin:/bin"}, cmd=("sleep", "1000"))
        host = {"Binds": shared(), "NetworkMode": "host", "Init": True}
        for name, label in (("Web_01", "shop"), ("web-02", "shop"), ("mail", "mail")):
            body = {"Image": "shop:v1", "HostConfig": host, "Labels": {"app": label}}
            client.start(client.create_container_from_config(body, name)["Id"])
        client.close()
        yield engine


def test_containers_of_a_real_engine_are_imported_by_label(dockerd: DockerEngine) -> None:
    """Those that share the host's network listen on its own port, which has to be given."""
    make_service(0)
    source = ("--from-docker", dockerd.address, "--label", "app=shop")
    told = refused("shop", *source)
    assert "no port is known: give one with --port" in told
    # Two at one address can't both be: that is the inventory's own refusal.
    assert "port: is that of instances[0] already" in refused("shop", *source, "--port", "80")
    printed, _ = run(
        "shop", "--from-docker", dockerd.address, "--label", "app=mail", "--port", "25"
    )
    assert yaml.safe_load(printed)["services"]["shop"]["instances"] == [
        {"name": "mail", "host": "127.0.0.1", "port": 25, "server": "mail"}
    ]
    assert "no container runs at" in refused(
        "shop", "--from-docker", dockerd.address, "--label", "app=none", "--port", "80"
    )
    assert "must be" in refused("shop", "--from-docker", "http://localhost", "--port", "80")
