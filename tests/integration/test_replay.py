"""Replay, log and panel as the server draws them: any moment, from the events alone."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.test import Client

from dashboard import log_views, replay_views
from rollouts import actions, analysis, journal
from rollouts.engine_journal import DjangoJournal
from rollouts.facts import Answer
from rollouts.models import Deployment, Event, Service
from rollouts.snapshots import consistent_snapshot
from rollouts.states import DeploymentStatus, TargetStatus
from tests.integration.factories import make_service, owned_journal

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

Json = dict[str, Any]
ANSWER = Answer(at=1_767_355_200.0, ok=False, code=500, latency_ms=2.0, error="")


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    return client


async def broken(found: DjangoJournal) -> None:
    """Let the first instance fail, and all go back."""
    await found.move(DeploymentStatus.IN_PROGRESS, "Started.")
    await found.target("web-01", TargetStatus.DRAINING, "Draining web-01.")
    await found.target("web-01", TargetStatus.UPDATING, "web-01 is drained.", touched=True)
    await found.output("web-01", "<b>started</b>")
    await found.target("web-01", TargetStatus.HEALTH_CHECKING, "Checking web-01.")
    await found.check("web-01", ANSWER, "web-01: 500 in 2 ms")
    await found.settle()
    await found.target("web-01", TargetStatus.FAILED, "web-01 is held out.", error="answered 500")
    await found.begin_way_back([], DeploymentStatus.ROLLED_BACK, "Rolling back.")
    await found.move(DeploymentStatus.ROLLED_BACK, "All are back.")


@pytest.fixture
def deployment() -> Deployment:
    """One that failed and was rolled back."""
    made = actions.start(make_service(), "v2", by="ada")
    async_to_sync(broken)(owned_journal(made.pk))
    return Deployment.objects.get(pk=made.pk)


def text_of(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return answer.content.decode()


def held_in(text: str) -> Json:
    [data] = re.findall(r'<script id="page" type="application/json">(.*?)</script>', text)
    return dict(json.loads(data))


def seq_of(deployment: Deployment, words: str) -> int:
    return Event.objects.get(deployment=deployment, message__contains=words).seq


# --- a moment


def test_every_moment_is_what_the_events_lead_to(client: Client, deployment: Deployment) -> None:
    """The last one is the snapshot itself, an earlier one knows nothing of what came after."""
    path = f"/deployments/{deployment.pk}/replay/"
    end = held_in(text_of(client, f"{path}?at={deployment.seq}"))["snapshot"]
    assert end == json.loads(json.dumps(consistent_snapshot(deployment.pk)))
    at = seq_of(deployment, "Checking web-01")
    text = text_of(client, f"{path}?at={at}")
    held = held_in(text)["snapshot"]
    assert (held["seq"], held["status"]) == (at, "in_progress")
    assert held["targets"][0]["status"] == "health_checking"
    assert held_in(text)["last"] == deployment.seq
    assert 'data-part="words">Checking web-01.<' in text
    assert "web-01 is held out" not in re.sub(
        r'<(script id="page"|section class="player).*', "", text, flags=re.S
    )


@pytest.mark.parametrize(
    ("asked", "shown"), [("", 1), ("0", 1), ("x", 1), ("999999", None), ("-1", 1)]
)
def test_a_moment_that_is_not_there_is_the_nearest(
    client: Client, deployment: Deployment, asked: str, shown: int | None
) -> None:
    """A shared address never leads to an error."""
    text = text_of(client, f"/deployments/{deployment.pk}/replay/?at={asked}")
    assert held_in(text)["snapshot"]["seq"] == (shown or deployment.seq)


def test_clocks_show_the_time_that_is_replayed(client: Client, deployment: Deployment) -> None:
    """Seconds count up to the event, not up to now."""
    at = seq_of(deployment, "Checking web-01")
    Event.objects.filter(deployment=deployment, seq=at).update(
        at=deployment.started_at + timedelta(seconds=95)
    )
    text = text_of(client, f"/deployments/{deployment.pk}/replay/?at={at}")
    assert re.search(r'data-part="since">1 min 35 s<', text)
    assert re.search(r'data-part="seconds">1 min<', text)


def test_a_replay_has_no_buttons_and_is_not_live(client: Client, deployment: Deployment) -> None:
    """It says that it is a replay, and of when."""
    text = text_of(client, f"/deployments/{deployment.pk}/replay/")
    assert "Replay<span" in text
    for absent in ("Stop deployment", ">Pause<", "/cancel/", "Live<", "js/deployment."):
        assert absent not in text


def test_without_scripts_links_lead_from_event_to_event(
    client: Client, deployment: Deployment
) -> None:
    """To those that say something; at both ends there is none."""
    path = f"/deployments/{deployment.pk}/replay/"
    after = re.compile(r'aria-label="Next event"[^>]*href="\?at=(\d+)"')
    seen, at = [1], "1"
    while found := after.search(text_of(client, f"{path}?at={at}")):
        at = found[1]
        seen.append(int(at))
    said = log_views.said(deployment.pk, {}).order_by("seq")
    assert seen == [event.seq for event in said]
    assert 'aria-label="Previous event"' in text_of(client, path)
    assert not re.search(r'aria-label="Previous event"[^>]*href', text_of(client, path))


def test_the_moments_that_matter_are_listed(client: Client, deployment: Deployment) -> None:
    """In their order, each a link, in words as well as drawn."""
    marks = list(replay_views.marks_of(deployment))
    assert [mark["word"] for mark in marks] == [
        "deploying",
        "failed",
        "rolling back",
        "rolled back",
    ]
    # On the slider that begins with the first event and ends with the last.
    places = [100 * (mark["seq"] - 1) / (deployment.seq - 1) for mark in marks]
    assert [mark["x"] for mark in marks] == [f"{place:.2f}%" for place in places]
    assert marks[-1]["x"] == "100.00%"
    text = text_of(client, f"/deployments/{deployment.pk}/replay/")
    [moments] = re.findall(r"<details class=\"moments\">.*?</details>", text, re.S)
    for mark in marks:
        assert f'href="?at={mark["seq"]}"' in moments
        assert mark["message"] in moments
    failed = seq_of(deployment, "is held out")
    assert re.search(rf'href="\?at={failed}" data-seq="{failed}">✕ First failure', text)


def test_a_promotion_matters_and_no_other_wish(client: Client) -> None:
    """Neither does a word about the status that changes none."""
    deployment = actions.start(make_service(), "v2", by="ada")
    with journal.writing(deployment.pk) as entry:
        for wish in ("pause", "promote", "stop", "promote_all"):
            entry.append("wish", f"Asked: {wish}.", {"wish": wish})
        entry.append("status", "Nothing new.", {"reason": "Nothing new."})
    found = [mark["message"] for mark in replay_views.marks_of(entry.deployment)]
    assert found == ["Asked: promote.", "Asked: promote_all."]


def test_marks_that_stand_on_each_other_are_drawn_side_by_side() -> None:
    """And of one kind once; at the end they reach back instead."""
    placed = (("✕", 1), ("✕", 1.5), ("↶", 1.6), ("✕", 6), ("✕", 9), ("↶", 97.5), ("↺", 100))
    marks = [{"glyph": glyph, "place": place, "x": f"{place}%"} for glyph, place in placed]
    drawn = [
        (group["x"], group["anchor"], [mark["glyph"] for mark in group["marks"]])
        for group in replay_views.apart(marks)
    ]
    assert drawn == [
        ("1%", "start", ["✕", "↶"]),
        ("9%", "start", ["✕"]),
        ("100%", "end", ["↶", "↺"]),
    ]


def test_room_is_kept_for_evidence_where_it_may_come(
    client: Client, deployment: Deployment
) -> None:
    """While a deployment runs that is judged, and in the replay of one that was."""

    def kept(path: str) -> bool:
        return 'class="card judged"' in text_of(client, path)

    ended = f"/deployments/{deployment.pk}/"
    assert not kept(ended)
    assert not kept(f"{ended}replay/")
    counted = analysis.to_json(analysis.Evidence())
    Deployment.objects.filter(pk=deployment.pk).update(evidence=counted)
    assert not kept(ended)
    assert kept(f"{ended}replay/")
    running = actions.start(Service.objects.get(), "v2", by="ada").pk
    assert kept(f"/deployments/{running}/")
    assert not kept(f"/deployments/{running}/replay/")


def test_what_runs_is_replayed_up_to_now(client: Client) -> None:
    """And the way to what runs is beside it."""
    running = actions.start(make_service(), "v2", by="ada")
    text = text_of(client, f"/deployments/{running.pk}/replay/")
    assert held_in(text)["last"] == running.seq
    assert "Go to what runs now" in text


def test_an_ended_deployment_leads_to_its_replay(client: Client, deployment: Deployment) -> None:
    """Beside the way to deploy again."""
    text = text_of(client, f"/deployments/{deployment.pk}/")
    assert re.search(
        rf'<a class="button" href="/deployments/{deployment.pk}/replay/">Replay</a>', text
    )


@pytest.mark.parametrize("path", ["replay/", "log/", "panel/?instance=web-01", "dialog/?stop=1"])
def test_who_may_not_see_sees_no_moment(path: str, deployment: Deployment) -> None:
    """Neither of the page, nor of its pieces; what is not there is not found."""
    client = Client()
    where = f"/deployments/{deployment.pk}/{path}"
    assert client.get(where).status_code == 302
    user = User.objects.create_user("eve")
    client.force_login(user)
    assert client.get(where).status_code == 403
    user.user_permissions.add(
        *Permission.objects.filter(codename__in=["view_deployment", "deploy"])
    )
    assert client.get(f"/deployments/deploy-000000000000/{path}").status_code in {403, 404}


# --- the log


def test_the_log_is_read_in_pages(client: Client) -> None:
    """Forward after a line, backward before one; no line comes twice and none is left out."""
    deployment = actions.start(make_service(), "v2", by="ada")
    for number in range(450):
        with journal.writing(deployment.pk) as entry:
            entry.append("note", f"line {number}" if number % 2 else "", target="web-01")
    said = [event.seq for event in log_views.said(deployment.pk, {}).order_by("seq")]
    path = f"/deployments/{deployment.pk}/log/"

    def page(query: str) -> list[int]:
        return [item["seq"] for item in client.get(f"{path}?{query}").json()["items"]]

    last = page("")
    assert page(f"before={last[0]}") + last == said
    first = page("after=0")
    assert len(first) == log_views.LOG_SHOWN
    assert first + page(f"after={first[-1]}") == said
    assert page(f"after={said[-1]}") == []


def test_the_log_is_filtered_by_the_address(client: Client, deployment: Deployment) -> None:
    """In the page and in what is read on; the form says what is chosen."""
    query = "log-kind=output&log-instance=web-01"
    text = text_of(client, f"/deployments/{deployment.pk}/?{query}")
    [rows] = re.findall(r'<ol id="log-rows">(.*?)</ol>', text, re.S)
    assert rows.count("<li") == 1
    assert "&lt;b&gt;started&lt;/b&gt;" in rows
    assert "<option selected>output</option>" in text
    assert "<option selected>web-01</option>" in text
    [item] = client.get(f"/deployments/{deployment.pk}/log/?{query}").json()["items"]
    assert (item["kind"], item["target"], item["failed"]) == ("output", "web-01", False)
    other = client.get(f"/deployments/{deployment.pk}/log/?log-instance=web-02").json()
    assert other["items"] == []
    assert "Nothing of that was said" in text_of(
        client, f"/deployments/{deployment.pk}/?log-kind=owner"
    )


def test_a_line_says_whether_it_is_a_failure(client: Client, deployment: Deployment) -> None:
    """So that a page that missed some finds the first one."""
    items = client.get(f"/deployments/{deployment.pk}/log/").json()["items"]
    assert [item["message"] for item in items if item["failed"]] == ["web-01 is held out."]


# --- the panel


def test_the_panel_tells_all_of_an_instance(client: Client, deployment: Deployment) -> None:
    """Its state, attempts, output and events, and nothing of another one."""
    text = text_of(client, f"/deployments/{deployment.pk}/panel/?instance=web-01")
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    for words in (
        "held out",
        "answered 500",
        "✕ 500",
        "&lt;b&gt;started&lt;/b&gt;",
        "Draining web-01.",
    ):
        assert words in plain
    assert plain.index("web-01 is held out.") < plain.index("Draining web-01.")  # the last first
    assert client.get(f"/deployments/{deployment.pk}/panel/?instance=web-99").status_code == 404


def test_the_panel_shows_the_end_of_a_long_output(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which it was said, and that it is cut."""
    deployment = actions.start(make_service(), "v2", by="ada")
    with journal.writing(deployment.pk) as entry:
        for words in ("first", "second", "third"):
            entry.append("output", words, target="web-01")
    path = f"/deployments/{deployment.pk}/panel/?instance=web-01"
    assert ">first\nsecond\nthird<" in text_of(client, path)
    monkeypatch.setattr(log_views, "OUTPUT_SHOWN", len("nd\nthird"))
    assert ">[cut]\nnd\nthird<" in text_of(client, path)


def test_the_panel_of_a_moment_knows_no_later_one(client: Client, deployment: Deployment) -> None:
    """As the rest of the replay; what closes it keeps the moment."""
    at = seq_of(deployment, "web-01 is drained")
    text = text_of(client, f"/deployments/{deployment.pk}/panel/?instance=web-01&at={at}")
    assert "updating" in text
    assert "Not checked yet" in text
    assert "held out" not in text
    assert f'href="?at={at}&amp;"' in text


def test_one_instance_is_followed_as_all_are(deployment: Deployment) -> None:
    """The panel's shortcut leads to the same state as all events."""
    for seq in range(1, deployment.seq + 1):
        whole, short = (log_views.as_of(deployment, seq, name) for name in ("", "web-01"))
        assert short["targets"][0] == whole["targets"][0]
        assert short["status"] == whole["status"]
