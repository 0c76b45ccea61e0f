"""`deploy` and `watch` from a terminal: exit status, lines, and no need of Redis."""

import io
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import OperationalError, connection

from rollouts import actions, journal
from rollouts.engine_journal import DjangoJournal
from rollouts.management.commands import watch
from rollouts.models import Deployment, Event, Service
from rollouts.states import DeploymentStatus, TargetStatus
from tests.integration.factories import aowned_journal, make_service

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client"),
]
D, T = DeploymentStatus, TargetStatus


class Terminal(io.StringIO):
    """Standard output that is a terminal, 100 columns wide."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def service() -> Service:
    return make_service()


@pytest.fixture
def deployment(service: Service) -> Deployment:
    return actions.start(service, "v2", by="ada")


def run(command: str, *arguments: str, out: io.StringIO | None = None) -> tuple[int, str, str]:
    """Return exit status, output and errors of a command."""
    out, err, status = out or io.StringIO(), io.StringIO(), 0
    try:
        call_command(command, *arguments, stdout=out, stderr=err)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, out.getvalue(), err.getvalue()


def end(deployment: Deployment, status: D, reason: str = "That is all.") -> None:
    """Bring a deployment to an end, by moves that are legal."""
    first = {D.ROLLED_BACK: D.ROLLING_BACK}.get(status)
    journal.move_now(deployment.id, D.IN_PROGRESS, "Started.")
    if first:
        journal.move_now(deployment.id, first, "A check failed.")
    journal.move_now(deployment.id, status, reason)


def write(deployment: Deployment, *calls: Callable[[DjangoJournal], Awaitable[None]]) -> None:
    """Write to the journal as the engine does, and wait until it is committed."""

    async def all_of_them() -> None:
        writer = await aowned_journal(deployment.id)
        for call in calls:
            await call(writer)
        await writer.settle()

    async_to_sync(all_of_them)()


@pytest.fixture
def meanwhile() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Do something in another thread as soon as the command listens to the news."""
    threads: list[threading.Thread] = []

    def begin(do: Callable[[], None]) -> None:
        def in_thread() -> None:
            try:
                do()
            finally:
                connection.close()

        thread = threading.Thread(target=in_thread)
        threads.append(thread)
        thread.start()

    yield begin
    for thread in threads:
        thread.join(30)


# --- deploy


def test_deploy_starts_and_prints_the_id(service: Service) -> None:
    """All it prints, so that a script can take it."""
    status, out, err = run("deploy", "shop", "v2", "--note", "friday")
    deployment = Deployment.objects.get()
    assert (status, out.strip(), err) == (0, deployment.id, "")
    assert (deployment.version, deployment.note, deployment.status) == ("v2", "friday", "pending")
    assert deployment.started_by.endswith("(terminal)")


def test_deploy_takes_the_policy_as_json_or_as_text(service: Service) -> None:
    """Numbers, switches, percentages and paths need no quotes."""
    settings = [
        "batch_size=1",
        "max_unavailable=50%",
        "auto_rollback=false",
        "batch_pause=0.5",
        "health_check_path=/up",
    ]
    arguments = [text for one in settings for text in ("--set", one)]
    assert run("deploy", "shop", "v2", "--strategy", "rolling", *arguments)[0] == 0
    policy = Deployment.objects.get().policy
    assert policy["batch_size"] == 1
    assert policy["max_unavailable"] == "50%"
    assert policy["auto_rollback"] is False
    assert policy["batch_pause"] == 0.5
    assert policy["health_check_path"] == "/up"


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (("shpo", "v2"), {"service"}),
        (("sh\0p", "v2"), {"service"}),
        (("shop", "$(id)"), {"version"}),
        (("shop", "v2", "--strategy", "big_bang"), {"strategy"}),
        (("shop", "v2", "--set", "batch_size=0", "--set", "drain=1"), {"batch_size", "drain"}),
        (("shop", "v2", "--set", "batch_size"), {"set"}),
        (("shop", "v2", "--set", "=1"), {"set"}),
        (("shop", "v2", "--set", "batch_size=1", "--set", "batch_size=2"), {"batch_size"}),
        (("shop", "v2", "--note", "x" * 501), {"note"}),
        (("shop", "v2", "--note", "a\nb"), {"note"}),
    ],
)
def test_a_refusal_names_each_key_on_stderr(
    service: Service, arguments: tuple[str, ...], keys: set[str]
) -> None:
    """With exit status 2; nothing is printed and nothing is started."""
    status, out, err = run("deploy", *arguments)
    assert (status, out) == (2, "")
    assert {line.split(": ")[0] for line in err.splitlines()} == keys
    assert not Deployment.objects.exists()


def test_a_second_deployment_is_refused_with_the_name_of_the_first(deployment: Deployment) -> None:
    """So that one can watch or stop it."""
    status, _, err = run("deploy", "shop", "v3")
    assert status == 2
    assert deployment.id in err


def test_deploy_follows_to_the_end(
    service: Service, meanwhile: Callable[[Callable[[], None]], None]
) -> None:
    """From the first event, and exits as the deployment ends."""

    def complete() -> None:
        while (begun := Deployment.objects.first()) is None:
            pass
        end(begun, D.COMPLETED, "All 4 run v2.")

    meanwhile(complete)
    status, out, _ = run("deploy", "shop", "v2", "--watch")
    lines = out.splitlines()
    deployment = Deployment.objects.get()
    assert status == 0
    assert lines[:2] == [deployment.id, "shop: v1 -> v2"]
    assert "asked for v2 on 4 instances of shop." in lines[2]
    assert lines[-1] == f"{deployment.id} is completed: All 4 run v2."


# --- watch


@pytest.mark.parametrize(
    ("ended", "expected"),
    [(D.COMPLETED, 0), (D.ROLLED_BACK, 1), (D.FAILED, 1), (D.CANCELLED, 3)],
)
def test_the_exit_status_is_what_became_of_it(
    deployment: Deployment, ended: D, expected: int
) -> None:
    """One that has ended is told at once."""
    end(deployment, ended)
    status, out, _ = run("watch", deployment.id)
    assert status == expected
    assert out.splitlines()[-1] == f"{deployment.id} is {ended}: That is all."


@pytest.mark.parametrize("name", ["deploy-000000000000", "x", "a\0b", ""])
def test_an_unknown_deployment_is_refused(name: str) -> None:
    """Exit status 2."""
    status, out, err = run("watch", name)
    assert (status, out) == (2, "")
    assert err.startswith("id: there is no deployment")


class Scripted:
    """A waker whose waits are the moments at which things happen."""

    script: list[Callable[[], Any]] = []

    def __init__(self, deployment_id: str) -> None:
        self._next = iter(self.script)

    def wait(self, seconds: float = 0) -> None:
        next(self._next)()

    def close(self) -> None:
        pass


def script(monkeypatch: pytest.MonkeyPatch, *moments: Callable[[], Any]) -> None:
    monkeypatch.setattr(Scripted, "script", list(moments))
    monkeypatch.setattr(watch, "Waker", Scripted)


def test_each_event_is_told_once_and_in_order(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those without words, such as counts of sessions, are left out."""
    script(
        monkeypatch,
        lambda: journal.move_now(deployment.id, D.IN_PROGRESS, "Started."),
        lambda: write(
            deployment,
            lambda writer: writer.target("web-01", T.DRAINING, "web-01 drains."),
            lambda writer: writer.sessions("web-01", 3),
            lambda writer: writer.output("web-01", "line one\nline two"),
        ),
        lambda: journal.move_now(deployment.id, D.COMPLETED, "Done."),
    )
    _, out, _ = run("watch", deployment.id)
    told = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in out.splitlines()]
    assert told == [
        "shop: v1 -> v2",
        "Started.",
        "web-01 drains.",
        "web-01: line one",
        "web-01: line two",
        "Done.",
        f"{deployment.id} is completed: Done.",
    ]


def test_plain_output_holds_nothing_that_a_terminal_obeys(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Driver output may hold anything; markup is not ours to read either."""
    text = "\x1b[2J[red]\x07 \x9b5n:smile:"
    script(
        monkeypatch,
        lambda: write(deployment, lambda writer: writer.output("web-01", text)),
        lambda: end(deployment, D.COMPLETED),
    )
    _, out, _ = run("watch", deployment.id)
    assert "�[2J[red]� �5n:smile:" in out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out)


def test_a_terminal_gets_a_bar(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how far it is; a pipe gets none."""
    monkeypatch.setenv("TERM", "xterm")

    def heal() -> None:
        journal.move_now(deployment.id, D.IN_PROGRESS, "Started.")
        for status in (T.DRAINING, T.UPDATING, T.HEALTH_CHECKING, T.HEALTHY):
            move = partial(DjangoJournal.target, name="web-01", status=status, message="It moves.")
            write(deployment, partial(move, touched=status == T.UPDATING))

    script(monkeypatch, heal, lambda: journal.move_now(deployment.id, D.COMPLETED, "Done."))
    _, out, _ = run("watch", deployment.id, out=Terminal())
    assert "1/4" in out
    assert "batch 1 of 2" in out
    assert "\x1b[" in out
    assert "It moves." in out


def test_news_from_redis_wake_it(deployment: Deployment, redis_client: redis.Redis) -> None:
    """Long before its own next look."""
    waker = watch.Waker(deployment.id)
    try:
        waker.wait(0.01)
        redis_client.publish(f"deploy:{deployment.id}", "{}")
        done = threading.Event()
        threading.Thread(target=lambda: (waker.wait(60), done.set()), daemon=True).start()
        assert done.wait(10)
    finally:
        waker.close()


def test_it_follows_without_redis(
    deployment: Deployment, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL alone holds what is told; only the wait is longer."""
    settings.REDIS_URL = "unix:///nonexistent/lockgate-test.sock"
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.01)
    waits: list[float] = []
    wait = watch.Waker.wait

    def counted(self: watch.Waker, seconds: float = 0.01) -> None:
        wait(self, seconds)
        waits.append(seconds)
        if len(waits) == 2:
            end(deployment, D.COMPLETED)

    monkeypatch.setattr(watch.Waker, "wait", counted)
    assert run("watch", deployment.id)[0] == 0
    assert len(waits) == 2


def test_an_outage_of_postgresql_is_told_once_and_outlived(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is missed after it."""
    read, away = watch.events_after, [True]

    def fail(*args: Any) -> Any:
        if away[0]:
            raise OperationalError("the server is gone")
        return read(*args)

    monkeypatch.setattr(watch, "events_after", fail)
    script(
        monkeypatch,
        lambda: journal.move_now(deployment.id, D.IN_PROGRESS, "Started."),
        lambda: away.__setitem__(0, False),
        lambda: journal.move_now(deployment.id, D.COMPLETED, "Done."),
    )
    status, out, _ = run("watch", deployment.id)
    assert status == 0
    assert out.count("PostgreSQL is out of reach") == 1
    assert out.index("out of reach") < out.index("Started.")


def test_ctrl_c_leaves_the_deployment_alone(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so: watching is not driving."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    script(monkeypatch, interrupt)
    status, _, err = run("watch", deployment.id)
    assert status == 130
    assert f"'manage.py watch {deployment.id}' follows it again" in err
    assert Event.objects.count() == 1
