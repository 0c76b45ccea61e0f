"""The compose file and the Dockerfile: valid, closed by default, and true to the code."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboard.local import compose_health, compose_instance, compose_start, compose_update
from rollouts import balancers, drivers
from rollouts.policy import check_keys
from rollouts.probes import check_source

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service}
ONE_SHOT = {"migrate", "inventory"}
INSTANCES = {name for name in SERVICES if name.startswith("shop-")}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Read by others than the settings: libpq, and the container that installs.
OTHER_VARIABLES = {"PGPASSWORD", "ADMIN_PASSWORD"}


def variables_of_settings() -> set[str]:
    """Return what `required("X", ...)` and `read(kind, "X", ...)` in the settings ask for."""
    tree = ast.parse((ROOT / "dashboard" / "settings.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    place = {"required": 0, "read": 1}
    return {
        call.args[place[call.func.id]].value
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id in place
        and isinstance(call.args[place[call.func.id]], ast.Constant)
    }


def test_the_services_of_an_installation_and_of_the_demo_are_there() -> None:
    """The fleet and what belongs to it stay away unless the profile is asked for."""
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {"postgres", "redis", "migrate", "web", "worker", "dispatch"}
    demo = {name for name, service in SERVICES.items() if service.get("profiles") == ["demo"]}
    assert demo == {"inventory", "haproxy"} | INSTANCES
    assert len(INSTANCES) == 4


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    """To a version, never to whatever is the latest."""
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"[a-z]+:[0-9][A-Za-z0-9.-]*", image), image
    for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert re.fullmatch(r"[a-z]+:[0-9][A-Za-z0-9.-]*", base), base


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOT))
def test_every_server_is_checked_and_comes_back(name: str) -> None:
    """One-shot containers end, and are not started again."""
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_one_shot_containers_end_and_the_application_waits_for_the_migration() -> None:
    """Nothing of ours sees a database of another version."""
    for name in ONE_SHOT:
        assert SERVICES[name]["restart"] == "no"
    for name in ("web", "worker", "dispatch", "inventory"):
        condition = SERVICES[name]["depends_on"]["migrate"]["condition"]
        assert condition == "service_completed_successfully"
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_published_is_published_on_loopback_alone(name: str) -> None:
    """Whoever wants more puts a proxy with TLS in front."""
    ports = SERVICES[name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert bool(ports) == (name in {"web", "haproxy"})


def test_the_database_and_the_queue_are_out_of_the_fleets_reach() -> None:
    """They are in a network of their own that leads nowhere else."""
    assert COMPOSE["networks"]["data"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["data"]
    for name in {"haproxy", *INSTANCES}:
        assert "data" not in SERVICES[name].get("networks", [])


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_is_ours_runs_without_any_privilege(name: str) -> None:
    """Not as root, and with no way to become it."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service
    assert "privileged" not in service
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert users == ["10001:10001"]
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nENTRYPOINT ")


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_is_one_that_is_read(name: str) -> None:
    """A misspelt one would be silently without effect."""
    given = set(SERVICES[name].get("environment", {}))
    assert given <= variables_of_settings() | OTHER_VARIABLES
    if name not in INSTANCES:
        assert {"SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "REDIS_URL"} <= given


def test_no_secret_is_written_down() -> None:
    """Neither here nor in the image: only in the operator's environment or in a volume."""
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if key in {"SECRET_KEY", "ADMIN_PASSWORD"}:
                assert value == f"${{{key}:-}}"
    assert not re.search(r"^(ENV|ARG) .*(SECRET|PASSWORD|DATABASE)", DOCKERFILE, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not any(line.startswith("!.") for line in ignored)


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_command_exists(name: str) -> None:
    """As a module of ours, a command of Django's, or a program of a package."""
    for command in (SERVICES[name]["command"], SERVICES[name]["healthcheck"].get("test", [])[1:]):
        match command:
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module), module
            case ["python", "manage.py", subcommand, *_]:
                done = subprocess.run(
                    [sys.executable, "manage.py", subcommand, "--help"],
                    cwd=ROOT,
                    capture_output=True,
                    check=False,
                )
                assert done.returncode == 0, done.stderr.decode()
            case ["daphne", *_, application]:
                module, _, attribute = application.partition(":")
                assert f"{attribute} = " in (ROOT / f"{module.replace('.', '/')}.py").read_text()
            case []:
                assert name in ONE_SHOT
            case other:
                pytest.fail(f"unknown: {other}")


def test_the_image_has_what_the_application_needs() -> None:
    """Every folder that is copied exists, and is let through by .dockerignore."""
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--)(\S+)", DOCKERFILE, re.MULTILINE)
    assert set(copied) == {
        "requirements.txt",
        "manage.py",
        "rollouts",
        "dashboard",
        "templates",
        "static",
    }
    for path in copied:
        assert (ROOT / path).exists()
        assert f"!{path}" in allowed


def test_the_inventory_of_the_demo_is_valid_and_agrees_with_balancer_and_containers() -> None:
    """The same four names everywhere."""
    text = (ROOT / "dashboard" / "local" / "compose_inventory.yaml").read_text()
    [(name, shop)] = yaml.safe_load(text)["services"].items()
    assert name == "shop"
    drivers.check(shop["driver"])
    balancers.check(shop["balancer"])
    check_source(shop["version"])
    check_keys(shop["policy"])
    instances = [(one["name"], one["host"], one["port"]) for one in shop["instances"]]
    port = compose_instance.PORT
    assert instances == [(each, each, port) for each in sorted(INSTANCES)]
    config = (ROOT / "dashboard" / "local" / "compose_haproxy.cfg").read_text()
    assert re.findall(r"^    server (\S+) (\S+):(\d+)$", config, re.MULTILINE) == [
        (each, each, str(port)) for each in sorted(INSTANCES)
    ]
    assert f"stats socket ipv4@0.0.0.0:{shop['balancer']['addresses'][0].split(':')[2]}" in config
    for each in INSTANCES:
        assert SERVICES[each]["command"][-1] == each
        assert compose_update.NAME.fullmatch(each)


def test_compose_itself_takes_the_file() -> None:
    """Needs no engine, only the client."""
    client = shutil.which("docker")
    if not client or subprocess.run([client, "compose", "version"], capture_output=True).returncode:
        pytest.skip("optional: the docker client with its compose plugin is not installed")
    for profile in ([], ["--profile", "demo"]):
        done = subprocess.run(
            [client, "compose", *profile, "config", "-q"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever a second start would make."""
    path = tmp_path / "secret_key"
    assert compose_start.kept(path, "first") == "first"
    assert compose_start.kept(path, "second") == "first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def started(folder: Path, **environment: str) -> str:
    """Return the secret key that a command of a container is started with."""
    show = "import os; print(os.environ['SECRET_KEY'])"
    code = (
        "import pathlib, sys; from dashboard.local import compose_start as start; "
        f"start.SECRETS = pathlib.Path({str(folder)!r}); "
        f"start.main([sys.executable, '-c', {show!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def test_the_secret_key_is_the_given_one_or_else_the_kept_one(tmp_path: Path) -> None:
    """A given one is not kept."""
    assert started(tmp_path, SECRET_KEY="given") == "given"
    assert not list(tmp_path.iterdir())
    made = started(tmp_path, SECRET_KEY="")
    assert len(made) > 50
    assert started(tmp_path) == made


def test_health_checks_say_no_where_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a traceback, whatever is asked for."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    assert compose_health.web(9) is False
    assert compose_health.instance(9) is False
    assert compose_health.worker() is False
    assert compose_health.main(["nothing"]) == 2


def test_a_dispatch_that_looks_no_more_is_not_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It touches a file after each look: one that is not there or old tells that it hangs."""
    alive = tmp_path / "alive"
    monkeypatch.setattr(compose_health, "DISPATCH_ALIVE", alive)
    assert compose_health.dispatch() is False
    alive.touch()
    assert compose_health.dispatch() is True
    long_ago = time.time() - 2 * compose_health.DISPATCH_SILENCE
    os.utime(alive, (long_ago, long_ago))
    assert compose_health.dispatch() is False


@pytest.mark.parametrize("arguments", [[], ["shop-01"], ["../x", "v1"], ["shop-01", "1;id"]])
def test_an_update_takes_a_name_and_a_version_alone(arguments: list[str]) -> None:
    """Before it touches any file."""
    assert compose_update.main(arguments) == 1
