"""Two people at the buttons and in the inventory, whatever they press and whoever dies.

A Hypothesis state machine on real PostgreSQL and Redis: the real actions, journal and engine,
over a fleet in memory. `make soak` lets it play for longer.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.db.models import ProtectedError
from django.db.models.functions import Now
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rollouts import actions, ownership
from rollouts.engine import Engine
from rollouts.engine_journal import DjangoJournal
from rollouts.facts import Answer, BalancerReport, Instance, Server, ServerState
from rollouts.jobs import WallClock
from rollouts.lease import Lease
from rollouts.models import Deployment, Service
from rollouts.ports import Balancer, Driver, Ports
from rollouts.snapshots import Json, apply, events_after, snapshot
from rollouts.states import TERMINAL
from tests.integration.factories import make_service

settings.register_profile(
    "operators",
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
settings.register_profile(
    "operators-soak",
    settings.get_profile("operators"),
    max_examples=300,
    stateful_step_count=50,
    derandomize=False,
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "operators")
PEOPLE = st.sampled_from(["ada", "bob"])
VERSIONS = st.sampled_from(["v2", "v3", "bad4"])
CALLS = st.integers(0, 120)  # of ports; a whole deployment takes from 25 on
ENDED = {status.value for status in TERMINAL}
POLICY = {
    "batch_size": 1,
    "max_unavailable": 1,
    "batch_pause": 0,
    "health_check_interval": 0.05,
    "health_check_timeout": 0.5,
}


class Died(BaseException):
    """The process that asks for this was killed."""


@dataclass
class Fleet(Balancer, Driver):
    """Balancer, driver and probe of instances in memory, which outlive whoever drives them.

    A version that begins with "bad" is unhealthy wherever it runs. After `calls_left` calls
    whoever calls is dead.
    """

    runs: dict[str, str] = field(default_factory=dict)
    states: dict[str, ServerState] = field(default_factory=dict)
    given: list[tuple[str, str]] = field(default_factory=list)
    calls_left: int = 10_000
    reports_version = True

    async def _call(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise Died
        await asyncio.sleep(0)

    def _state(self, name: str) -> ServerState:
        return self.states.get(name, ServerState.READY)

    async def report(self) -> BalancerReport:
        await self._call()
        return BalancerReport(
            {name: Server(name, self._state(name), True, 0, 100) for name in self.runs}
        )

    async def drain(self, server: str) -> None:
        await self._call()
        self.states[server] = ServerState.DRAIN

    async def ready(self, server: str) -> None:
        await self._call()
        self.states[server] = ServerState.READY

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        await self._call()

    async def cut(self, server: str) -> None:
        await self._call()

    async def prepare(self, instance: Instance, version: str, *_: Any) -> None:
        await self._call()

    async def update(self, instance: Instance, version: str, *_: Any) -> None:
        await self._call()
        assert self._state(instance.server) is not ServerState.READY
        self.runs[instance.name] = version
        self.given.append((instance.name, version))

    async def ask(self, instance: Instance) -> Answer:
        await self._call()
        version = self.runs[instance.name]
        well = not version.startswith("bad")
        at = WallClock().now()
        return Answer(at, ok=well, code=200 if well else 500, latency_ms=1, version=version)


def drive(fleet: Fleet, deployment_id: str) -> None:
    """Drive a deployment as a job does, until it ends, is parked, or its process dies."""
    claim = ownership.claim(deployment_id, "a worker")
    if claim is None:
        return

    async def run() -> None:
        lease = Lease(claim.deployment_id, claim.asked_at)
        journal = DjangoJournal(claim, lease)
        try:
            await Engine(Ports(journal, fleet, fleet, fleet, WallClock(), lease)).run()
            await journal.settle()
        finally:
            await sync_to_async(connections.close_all)()

    with suppress(Died):
        asyncio.run(run())


class Operators(RuleBasedStateMachine):
    """What two people may do with one service, and what must hold after each of it."""

    @initialize(count=st.integers(2, 4))
    def begin(self, count: int) -> None:
        name = f"shop-{Service.objects.count()}"
        self.service = make_service(count, name, policy=POLICY)
        self.fleet = Fleet({one.name: "v1" for one in self.service.instances.all()})
        self.last: Deployment | None = None
        self.ends: dict[str, Json] = {}  # what was seen of deployments that had ended
        self.plans: dict[str, Any] = {}  # what was stored when they started
        self.stopped: dict[str, int] = {}  # by id, how many updates there were at the wish
        self.seen: dict[str, str] = {}  # by person, the status on the page

    @property
    def active(self) -> Deployment | None:
        return self.service.deployments.exclude(status__in=ENDED).first()

    def press(self, who: str, button: Callable[..., Deployment], *words: str) -> bool:
        """Press a button on the page as `who` saw it last; return whether it was taken."""
        if self.last is None:
            return False
        seen = self.seen.get(who, "")
        held = Deployment.objects.get(pk=self.last.pk)
        try:
            button(self.last.pk, *words, by=who, seen=seen)
        except actions.Conflict:
            return False
        assert held.status not in ENDED, "a button worked on what had ended"
        assert seen in {"", held.status}, "a button of an old page worked"
        return True

    # What people do

    @rule(who=PEOPLE)
    def look(self, who: str) -> None:
        if self.last is not None:
            self.seen[who] = Deployment.objects.get(pk=self.last.pk).status

    @precondition(lambda self: self.active is None)
    @rule(who=PEOPLE, version=VERSIONS, twice=st.booleans(), calls=CALLS)
    def start(self, who: str, version: str, twice: bool, calls: int) -> None:
        key = f"{who}-{len(self.plans)}"
        # An edit may have left nothing to deploy to, or nothing to change.
        with suppress(actions.Refused):
            made = actions.start(self.service, version, by=who, idempotency_key=key)
            if twice:
                assert actions.start(self.service, version, by=who, idempotency_key=key) == made
            self.last, self.seen = made, {}
            self.plans[made.pk] = stored_plan(made.pk)
            self.work(calls)

    @precondition(lambda self: self.active is not None)
    @rule(who=PEOPLE, version=VERSIONS)
    def start_beside(self, who: str, version: str) -> None:
        with pytest.raises(actions.Conflict) as refusal:
            actions.start(self.service, version, by=who)
        assert refusal.value.deployment_id == self.active.pk

    @rule(who=PEOPLE, mode=st.sampled_from(["stop", "roll_back"]))
    def cancel(self, who: str, mode: str) -> None:
        given = len(self.fleet.given)
        if self.press(who, actions.cancel, mode) and self.last is not None:
            self.stopped.setdefault(self.last.pk, given)

    @rule(who=PEOPLE)
    def roll_back(self, who: str) -> None:
        given = len(self.fleet.given)
        if self.press(who, actions.roll_back) and self.last is not None:
            self.stopped.setdefault(self.last.pk, given)

    @rule(who=PEOPLE)
    def pause(self, who: str) -> None:
        self.press(who, actions.pause)

    @rule(who=PEOPLE)
    def resume(self, who: str) -> None:
        self.press(who, actions.resume)

    @rule(number=st.integers(1, 4))
    def delete_an_instance(self, number: int) -> None:
        instance = self.service.instances.filter(name=f"web-{number:02}").first()
        if instance is None or self.service.instances.count() <= 2:
            return
        active = self.active
        needed = active is not None and active.targets.filter(instance=instance).exists()
        try:
            instance.delete()
            assert not needed, "what a running deployment needs was deleted"
        except ProtectedError:
            assert needed

    @rule(number=st.integers(1, 4), port=st.integers(1_000, 60_000), on=st.booleans())
    def edit_an_instance(self, number: int, port: int, on: bool) -> None:
        self.service.instances.filter(name=f"web-{number:02}").update(port=port, active=on)

    @rule(retries=st.integers(1, 3))
    def edit_the_service(self, retries: int) -> None:
        self.service.policy = {**POLICY, "health_check_retries": retries}
        self.service.driver = {"kind": "command", "update": ["true", str(retries)]}
        self.service.save()

    # What the machinery does meanwhile

    @precondition(lambda self: self.active is not None)
    @rule(calls=CALLS)
    def work(self, calls: int) -> None:
        """A worker takes it up, and dies after so many calls unless it has ended by then."""
        self.fleet.calls_left = calls
        drive(self.fleet, self.last.pk)
        self.let_time_pass()

    def let_time_pass(self) -> None:
        """Let the lease of whoever died end."""
        Deployment.objects.filter(lease_until__isnull=False).update(
            lease_until=Now() - timedelta(seconds=1)
        )

    # What must hold

    @invariant()
    def at_most_one_is_active(self) -> None:
        assert self.service.deployments.exclude(status__in=ENDED).count() <= 1

    @invariant()
    def every_event_is_there_and_leads_to_what_is_stored(self) -> None:
        if self.last is None:
            return
        held = Deployment.objects.select_related("service").get(pk=self.last.pk)
        events = events_after(held.pk, 0, 10_000)
        assert [event["seq"] for event in events] == list(range(1, held.seq + 1))
        assert apply({}, events) == snapshot(held)

    @invariant()
    def what_has_ended_stays_as_it_is(self) -> None:
        for held in self.service.deployments.filter(status__in=ENDED):
            now = {"status": held.status, "reason": held.reason, "seq": held.seq}
            assert self.ends.setdefault(held.pk, now) == now

    @invariant()
    def what_a_deployment_does_was_fixed_at_its_start(self) -> None:
        if self.last is not None:
            assert stored_plan(self.last.pk) == self.plans[self.last.pk]

    @invariant()
    def what_was_stopped_neither_completes_nor_goes_on(self) -> None:
        for pk, given in self.stopped.items():
            held = Deployment.objects.get(pk=pk)
            assert held.status != "completed", "completed over a cancel"
            if self.last is not None and self.last.pk == pk:
                later = [version for _, version in self.fleet.given[given:]]
                old = set(held.targets.values_list("old_version", flat=True))
                assert not {held.version} & set(later) - old, "updated after a cancel (S8)"

    def teardown(self) -> None:
        """In the end every deployment ends, and leaves each instance as it says (S9)."""
        if self.last is None:
            return
        self.fleet.calls_left = 100_000
        for _ in range(10):
            self.let_time_pass()
            drive(self.fleet, self.last.pk)
            if Deployment.objects.get(pk=self.last.pk).status == "paused":
                actions.resume(self.last.pk, by="ada")
        held = Deployment.objects.get(pk=self.last.pk)
        assert held.status in ENDED
        assert held.reason
        for target in held.targets.all():
            out = self.fleet.states.get(target.server) is ServerState.DRAIN
            wanted = held.version if target.status == "healthy" else target.old_version
            if target.status == "failed":
                assert out
                assert target.error
            elif target.touched or target.status != "pending":
                assert (self.fleet.runs[target.name], out) == (wanted, False)


def stored_plan(pk: str) -> Any:
    """Return all of a deployment that may never change."""
    held = Deployment.objects.get(pk=pk)
    names = held.targets.order_by("position").values_list("name", "old_version", "port")
    return held.plan, held.policy, held.adapters, held.version, list(names)


@pytest.mark.timeout(0 if PROFILE == "operators-soak" else 120)
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_client")
def test_whatever_people_press_the_fleet_ends_whole() -> None:
    """No sequence of clicks, edits and deaths breaks an invariant."""
    run_state_machine_as_test(Operators, settings=settings.get_profile(PROFILE))
