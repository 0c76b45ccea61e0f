"""Who drives a deployment, on real PostgreSQL: one at a time, and the epoch decides."""

import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.db.models.functions import Now

from rollouts import actions, jobs, journal, ownership
from rollouts.engine_journal import DjangoJournal
from rollouts.facts import Wish
from rollouts.lease import SECONDS, Lease
from rollouts.models import Deployment, Event
from rollouts.ports import Interrupted, LeaseLost
from rollouts.states import DeploymentStatus, TargetStatus
from tests.integration.factories import make_service

pytestmark = pytest.mark.django_db(transaction=True)
D, T = DeploymentStatus, TargetStatus


@pytest.fixture
def deployment() -> Deployment:
    return actions.start(make_service(), "v2", by="ada")


@pytest.fixture
async def closed() -> AsyncIterator[None]:
    """Close the connection of the thread in which async writes run."""
    yield
    await sync_to_async(connections.close_all)()


def messages(deployment: Deployment) -> list[str]:
    events = Event.objects.filter(deployment=deployment).order_by("seq")
    return list(events.values_list("message", flat=True))


def claimed(deployment: Deployment, owner: str = "first") -> ownership.Claim:
    claim = ownership.claim(deployment.pk, owner)
    assert claim is not None
    return claim


def let_lease_end(deployment: Deployment) -> None:
    """Move the end of the lease to a moment ago, by the database's clock."""
    Deployment.objects.filter(pk=deployment.pk).update(lease_until=Now() - timedelta(seconds=1))


def journal_of(claim: ownership.Claim) -> DjangoJournal:
    return DjangoJournal(claim, Lease(claim.deployment_id, claim.asked_at))


def test_only_one_of_many_gets_a_deployment(deployment: Deployment) -> None:
    """Eight ask at the same time."""
    won: list[ownership.Claim] = []

    def ask(number: int) -> None:
        try:
            claim = ownership.claim(deployment.pk, f"owner {number}")
            won.extend([claim] if claim else [])
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [claim.epoch for claim in won] == [1]


def test_a_successor_has_a_higher_epoch_and_says_whom_it_follows(deployment: Deployment) -> None:
    """Not before the lease has ended; the event names both and the times."""
    claimed(deployment)
    assert ownership.claim(deployment.pk, "second") is None
    let_lease_end(deployment)
    assert claimed(deployment, "second").epoch == 2
    assert "Worker first was lost at " in messages(deployment)[-1]
    assert messages(deployment)[-1].endswith("by second.")


async def test_an_owner_that_was_replaced_writes_nothing_more(
    closed: None, deployment: Deployment
) -> None:
    """Neither a status nor a note; it is told that it lost the lease, at a read too."""
    first = journal_of(await sync_to_async(claimed)(deployment))
    await first.move(D.IN_PROGRESS, "Started.")
    await sync_to_async(let_lease_end)(deployment)
    await sync_to_async(claimed)(deployment, "second")
    before = await sync_to_async(messages)(deployment)
    with pytest.raises(LeaseLost):
        await first.target("web-01", T.DRAINING, "Draining.")
    with pytest.raises(LeaseLost):
        await first.note("I am still here.")
    with pytest.raises(LeaseLost):
        await first.read()
    assert await sync_to_async(messages)(deployment) == before


async def test_each_write_keeps_others_out_for_longer(closed: None, deployment: Deployment) -> None:
    """An owner that writes needs no other sign of life."""
    claim = await sync_to_async(claimed)(deployment)
    await sync_to_async(let_lease_end)(deployment)
    await journal_of(claim).note("Still here.")
    assert await sync_to_async(ownership.claim)(deployment.pk, "second") is None
    held = await Deployment.objects.annotate(now=Now()).aget(pk=deployment.pk)
    assert held.lease_until is not None
    assert 0 < (held.lease_until - held.now).total_seconds() <= SECONDS


async def test_a_lease_is_renewed_by_its_owner_alone(closed: None, deployment: Deployment) -> None:
    """Whoever was replaced is told so."""
    first = await sync_to_async(claimed)(deployment)
    assert await ownership.renew(first) is True
    await sync_to_async(let_lease_end)(deployment)
    second = await sync_to_async(claimed)(deployment, "second")
    assert await ownership.renew(first) is False
    assert await ownership.renew(second) is True


def test_what_is_given_back_is_free_at_once(deployment: Deployment) -> None:
    """With its reason in the log; the successor has lost nobody."""
    assert ownership.give_back(claimed(deployment), "Told to stop.")
    assert claimed(deployment, "second").epoch == 2
    assert messages(deployment)[-1] == "Told to stop."


def test_what_is_not_ours_is_not_given_back(deployment: Deployment) -> None:
    """A late owner takes nothing from its successor."""
    first = claimed(deployment)
    let_lease_end(deployment)
    claimed(deployment, "second")
    assert not ownership.give_back(first, "Told to stop.")
    assert ownership.claim(deployment.pk, "third") is None


def test_an_owner_that_is_known_to_be_dead_keeps_nobody_out(deployment: Deployment) -> None:
    """Its lease ends at once, and that of nobody else."""
    claimed(deployment)
    assert ownership.bury("somebody else") == []
    assert ownership.bury("first") == [deployment.pk]
    assert claimed(deployment, "second").epoch == 2


def test_a_job_that_comes_again_does_nothing(deployment: Deployment) -> None:
    """While the deployment is driven, once it has ended, and where it is no more."""
    claimed(deployment)
    before = messages(deployment)
    jobs.drive(deployment.pk)
    assert messages(deployment) == before
    journal.move_now(deployment.pk, D.CANCELLED, "Stopped.")
    before = messages(deployment)
    jobs.drive(deployment.pk)
    assert messages(deployment) == before
    jobs.drive("deploy-000000000000")


async def test_what_is_parked_waits_for_its_time_or_for_a_person(
    closed: None, deployment: Deployment
) -> None:
    """Until then nobody may drive it; a wish makes it due at once."""
    claim = await sync_to_async(claimed)(deployment)
    soon = Lease(claim.deployment_id, claim.asked_at)
    assert await DjangoJournal(claim, soon).park(None, None)
    assert await sync_to_async(ownership.claim)(deployment.pk, "second") is None
    assert await sync_to_async(ownership.due)(within=10_000) == []
    await sync_to_async(actions.cancel)(deployment.pk, "stop", by="ada")
    assert (await Deployment.objects.aget(pk=deployment.pk)).status == D.CANCELLED


async def test_a_wish_that_came_just_now_is_not_parked_over(
    closed: None, deployment: Deployment
) -> None:
    """Whoever parks says which wish it has seen; where there is another it goes on."""
    claim = await sync_to_async(claimed)(deployment)
    writer = journal_of(claim)
    await writer.move(D.IN_PROGRESS, "Started.")
    await sync_to_async(actions.pause)(deployment.pk, by="ada")
    assert not await writer.park(None, None)
    assert await writer.park(None, Wish.PAUSE)
    assert await sync_to_async(ownership.claim)(deployment.pk, "second") is None


async def test_a_cancel_outruns_a_step_toward_the_new_version(
    closed: None, deployment: Deployment
) -> None:
    """Recorded before the step is committed, it keeps the step from being taken (S8)."""
    writer = journal_of(await sync_to_async(claimed)(deployment))
    await writer.move(D.IN_PROGRESS, "Started.")
    await writer.target("web-01", T.DRAINING, "Draining.")
    await sync_to_async(actions.cancel)(deployment.pk, "stop", by="ada")
    with pytest.raises(Interrupted):
        await writer.target("web-01", T.UPDATING, "Updating.", touched=True)
    with pytest.raises(Interrupted):
        await writer.move(D.COMPLETED, "All done.")
    assert (await writer.read()).target("web-01").status is T.DRAINING


@sync_to_async
def end_connections() -> None:
    """Have PostgreSQL end every connection to this database but this one."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_a_lost_connection_is_made_anew_and_the_write_is_done_once(
    closed: None, deployment: Deployment
) -> None:
    """The backend is ended in the middle of the transaction; the caller notices nothing."""
    writer = journal_of(await sync_to_async(claimed)(deployment))
    tries: list[int] = []

    def end_own_backend(entry: journal.Entry) -> None:
        tries.append(len(tries))
        entry.append("note", "written")
        if len(tries) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    await writer._write(end_own_backend)
    assert len(tries) == 2
    assert (await sync_to_async(messages)(deployment)).count("written") == 1


def test_a_write_whose_answer_was_lost_is_not_done_again(deployment: Deployment) -> None:
    """The number of the transaction tells that it was committed."""
    writer = journal_of(claimed(deployment))
    writes: list[Callable[[journal.Entry], None]] = [lambda entry: entry.append("note", "written")]
    for _ in range(2):
        writer._commit_once(writes, 1)
    assert messages(deployment).count("written") == 1
