"""The real application with services of many instances, all answered by one small server.

They stand behind a real HAProxy. A thousand instances are a thousand addresses of loopback with
one port. What answers there is the agent of the webhook driver too: it takes a moment for an
update, and then says the new version.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from dashboard.local import binaries
from dashboard.local.places import Places
from tests.acceptance.running import ROOT, Demo, clean_environment, ended, free_port, until

MANAGE = (sys.executable, "manage.py")
UP_WITHIN = 120.0  # seconds
ADMIN = "haproxy.sock"
UPDATE = 0.2  # seconds that the agent takes
SECRET = "a shared secret of the tests"
BAD = "-bad"  # a version so named fails on every tenth instance that is updated
# As short as is still seen on a page.
POLICY = {
    "batch_pause": 0,
    "drain_timeout": 0,
    "health_check_interval": 0.2,
    "health_check_timeout": 5,
    "min_healthy_time": 0.5,
    "healthy_deadline": 30,
    "rollback_threshold": 100,
    "preflight": False,
}
PREPARE = """
from django.contrib.auth.models import User
from dashboard.models import ApiToken
from rollouts.models import Instance
Instance.objects.update(version="v1")
print(ApiToken.issue(User.objects.get(username="admin"), "wide")[1])
"""
Json = dict[str, Any]


def address(service: int, number: int) -> str:
    """Return the address of an instance: each service has a net of its own."""
    return f"127.{10 + service}.{number // 250}.{1 + number % 250}"


def name(number: int) -> str:
    """Return the name of an instance."""
    return f"web-{number + 1:04}"


class Fleet:
    """All instances, as one server in a thread; each tells its version by its address."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.port = free_port()
        self._addresses = [
            address(service, number) for service, size in enumerate(sizes) for number in range(size)
        ]
        self._versions = dict.fromkeys(self._addresses, "v1")
        self._loop = asyncio.new_event_loop()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Fleet":
        self._thread.start()
        assert self._listens.wait(30), "the fleet does not listen"
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        begin = asyncio.start_server(self._talk, self._addresses, self.port, backlog=256)
        server = self._loop.run_until_complete(begin)
        self._listens.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode("latin-1").split("\r\n")
                length = [
                    int(line[15:]) for line in lines if line.lower()[:15] == "content-length:"
                ]
                body = await reader.readexactly(sum(length))
                status, text = await self._answer(host, request.split()[1], body)
                content = text.encode()
                said = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
                writer.write(said + content)
                await writer.drain()
        writer.close()

    async def _answer(self, host: str, path: str, body: bytes) -> tuple[str, str]:
        version = self._versions[host]
        if path == "/deploy":
            asked = json.loads(body)
            await asyncio.sleep(UPDATE)
            self._versions[host] = asked["version"]
            return "204 No Content", ""
        if path == "/version":
            return "200 OK", json.dumps({"version": version})
        tenth = hashlib.sha256(host.encode()).digest()[0] < 26
        if version.endswith(BAD) and tenth:
            return "503 Service Unavailable", "overloaded"
        return "200 OK", "ok"


def balancer_config(sizes: Sequence[int], port: int, admin: Path) -> str:
    """Return the configuration of a balancer with a backend for each service."""
    lines = [
        "global",
        f"    stats socket {admin} mode 600 level admin",
        "defaults",
        "    mode http",
        *("    timeout connect 2s", "    timeout client 5s", "    timeout server 5s"),
        "    default-server check inter 20s",
    ]
    for service, size in enumerate(sizes):
        lines.append(f"backend fleet-{size}")
        lines += (
            f"    server {name(number)} {address(service, number)}:{port}" for number in range(size)
        )
    return "\n".join(lines) + "\n"


@contextmanager
def _balancing(config: str, folder: Path) -> Iterator[None]:
    (folder / "haproxy.cfg").write_text(config)
    with (folder / "haproxy.log").open("w") as output:
        process = subprocess.Popen(
            [str(binaries.haproxy()), "-db", "-f", str(folder / "haproxy.cfg")],
            stdout=output,
            stderr=output,
        )
    try:
        until((folder / ADMIN).exists, 30, (folder / "haproxy.log").read_text())
        yield
    finally:
        process.terminate()
        process.wait(30)


def inventory(sizes: Sequence[int], port: int, admin: Path) -> Json:
    """Return a file of services `fleet-N`, N being the count of instances."""
    agent = f"http://{{hostname}}:{port}"
    return {
        "services": {
            f"fleet-{size}": {
                "driver": {
                    "kind": "webhook",
                    "url": f"{agent}/deploy",
                    "version_url": f"{agent}/version",
                    "secret_env": "WIDE_SECRET",
                    "allow_http": True,
                },
                "balancer": {
                    "kind": "haproxy",
                    "addresses": [f"unix:{admin}"],
                    "backend": f"fleet-{size}",
                },
                "policy": POLICY,
                "instances": [
                    {
                        "name": name(number),
                        "host": address(service, number),
                        "port": port,
                    }
                    for number in range(size)
                ],
            }
            for service, size in enumerate(sizes)
        }
    }


class Wide(Demo):
    """The application, with services of many instances."""

    environment: dict[str, str]  # of the commands of manage.py

    def run(self, code: str) -> None:
        """Run Python within the application."""
        _call(self.environment, "shell", "-v", "0", "-c", code)

    def deploy(self, service: str, version: str, **policy: Any) -> str:
        """Start a deployment; return its id."""
        answer = self.client.post(
            f"/api/v1/services/{service}/deployments", json={"version": version, "policy": policy}
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def reached(self, deployment: str, count: int, within: float = 60) -> Json:
        """Return the snapshot as soon as so many instances were given the new version."""

        def reached() -> Json | None:
            state = self.get(deployment)
            return state if state["progress"]["updated"] >= count else None

        return dict(until(reached, within, f"{count} updated in {deployment}"))


@contextmanager
def running_wide(*sizes: int) -> Iterator[Wide]:
    """Run all of it until the end of the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lgw-", dir="/tmp")))
        folder.chmod(0o711)
        fleet, admin = stack.enter_context(Fleet(sizes)), folder / ADMIN
        stack.enter_context(_balancing(balancer_config(sizes, fleet.port, admin), folder))
        data, port = folder / "data", free_port()
        environment = {**clean_environment(), "WIDE_SECRET": SECRET}
        said = stack.enter_context((folder / "said").open("w+"))
        process = subprocess.Popen(
            [*MANAGE, "up", "--data", str(data), "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=said,
            stderr=said,
            text=True,
        )
        stack.enter_context(ended(process))
        until(lambda: "Up: open" in Path(said.name).read_text(), UP_WITHIN, "it is up")
        places = Places.of(data)
        environment |= _settings(places)
        given = json.dumps(inventory(sizes, fleet.port, admin))
        _call(environment, "inventory", "-", given=given)
        ready = {
            "url": f"http://127.0.0.1:{port}",
            "admin_user": "admin",
            "admin_password": places.password.read_text().strip(),
            "api_token": _call(environment, "shell", "-v", "0", "-c", PREPARE).split()[-1],
        }
        wide = Wide(process, ready, data)
        wide.environment = environment
        with wide.client:
            yield wide


def _settings(places: Places) -> dict[str, str]:
    return {
        "DATABASE_URL": places.database_url,
        "REDIS_URL": places.redis_url,
        "SECRET_KEY": "of a command alone, of a command alone, of a command alone",
        "ALLOWED_HOSTS": "localhost",
    }


def _call(environment: dict[str, str], *words: str, given: str = "") -> str:
    done = subprocess.run(
        [*MANAGE, *words],
        cwd=ROOT,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
