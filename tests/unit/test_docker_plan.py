"""How a container is replaced: wherever somebody stops, the next one gets to the same end."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.drivers.docker_plan import (
    NEVER,
    Connect,
    Container,
    Create,
    Found,
    InTheWay,
    Place,
    Remove,
    Rename,
    Restart,
    SetRestart,
    Step,
    Stop,
    Wanted,
    back,
    clearing,
    forward,
    letting_go,
)

ALWAYS = Restart("always")
OLD = Container("old", "image-1", "v1", running=True, restart=ALWAYS, networks=frozenset("ab"))
V2 = Wanted("web-01", "v2", "deploy-1", "image-2")
V3 = Wanted("web-01", "v3", "deploy-2", "image-3")
HOME = Wanted("web-01", "v1", "deploy-1")

Decide = Callable[[Found], Step | None]


class Refused(Exception):
    """What an engine refuses: a name that is taken, a container that is not there."""


class Engine:
    """What an engine would do, as far as a plan knows of it."""

    def __init__(self, **containers: Container) -> None:
        self.at = {Place[name.upper()]: one for name, one in containers.items()}
        self._ids = count(1)

    def look(self) -> Found:
        return Found(**{place.name.lower(): one for place, one in self.at.items()})

    def do(self, step: Step, wanted: Wanted) -> None:
        if isinstance(step, Create):
            self._create(step, wanted)
            return
        one = step.container.id if isinstance(step, Stop) else step.id
        place = next((place for place, each in self.at.items() if each.id == one), None)
        if place is None:
            raise Refused
        match step:
            case Stop(container):
                # One with its policy could be started again at any moment, by a new dockerd.
                assert container.restart == NEVER or container.instance
                self.at[place] = replace(self.at[place], running=False)
            case Remove():
                del self.at[place]
            case Rename(_, to):
                if to in self.at:
                    raise Refused
                self.at[to] = self.at.pop(place)
            case _:
                self.at[place] = self._changed(self.at[place], step)

    def _changed(self, one: Container, step: Step) -> Container:
        match step:
            case SetRestart(_, restart):
                return replace(one, restart=restart)
            case Connect(_, network, _):
                return replace(one, networks=one.networks | {network})
            case _:
                return replace(one, running=True)

    def _create(self, step: Create, wanted: Wanted) -> None:
        if Place.NEXT in self.at:
            raise Refused
        source = step.source
        self.at[Place.NEXT] = Container(
            f"made-{next(self._ids)}",
            wanted.image,
            wanted.version,
            running=False,
            restart=source.restart if source else NEVER,
            networks=frozenset(sorted(source.networks)[:1]) if source else frozenset(),
            instance=wanted.instance,
            deployment=wanted.deployment,
            replaces=step.replaces,
        )


def ahead(wanted: Wanted) -> Decide:
    return partial(forward, wanted=wanted)


def home(wanted: Wanted = HOME) -> Decide:
    def decide(found: Found) -> Step | None:
        kept, step = back(found, wanted)
        assert kept, found
        return step

    return decide


def go(engine: Engine, decide: Decide, wanted: Wanted, most: int = 100) -> int:
    """Do at most so many steps; return how many there were."""
    for done in range(most):
        step = decide(engine.look())
        if step is None:
            return done
        engine.do(step, wanted)
    return most


STEPS = go(Engine(current=OLD), ahead(V2), V2)


def is_updated(engine: Engine, wanted: Wanted = V2, kept: str = "old") -> None:
    """One container of the new version runs as the old one did, which is kept as it should."""
    found = engine.look()
    assert set(engine.at) == {Place.CURRENT, Place.BEFORE}
    assert found.current
    assert wanted.is_(found.current)
    assert found.current.running
    assert (found.current.restart, found.current.networks) == (ALWAYS, OLD.networks)
    assert found.before
    assert (found.before.id, found.before.running, found.before.restart) == (kept, False, NEVER)


@pytest.mark.parametrize("done", range(STEPS + 1))
def test_a_successor_ends_where_the_one_that_died_would_have(done: int) -> None:
    """After any number of steps the rest is found anew, and nothing is done twice."""
    engine = Engine(current=OLD)
    go(engine, ahead(V2), V2, done)
    assert go(engine, ahead(V2), V2) == STEPS - done
    is_updated(engine)
    assert go(engine, ahead(V2), V2) == 0


@pytest.mark.parametrize("done", range(STEPS + 1))
def test_the_way_back_ends_with_the_old_container_as_it_was(done: int) -> None:
    """From any point of an update, and from any point of the way back itself."""
    for returned in range(STEPS + 1):
        engine = Engine(current=OLD)
        go(engine, ahead(V2), V2, done)
        go(engine, home(), HOME, returned)
        go(engine, home(), HOME)
        assert engine.at == {Place.CURRENT: OLD}


@pytest.mark.parametrize("done", range(STEPS + 1))
@pytest.mark.parametrize("returned", range(STEPS + 1))
def test_the_next_deployment_takes_over_whatever_was_left(done: int, returned: int) -> None:
    """What another one left half done, forward or back, keeps its restart policy and networks."""
    engine = Engine(current=OLD)
    go(engine, ahead(V2), V2, done)
    go(engine, home(), HOME, returned)
    before = engine.look()
    ran = before.current or before.before
    assert ran
    go(engine, ahead(V3), V3)
    is_updated(engine, V3, kept=ran.id)
    wanted = Wanted("web-01", ran.version or "", V3.deployment)
    go(engine, home(wanted), wanted)
    found = engine.look()
    assert found.current
    assert (found.current.id, found.current.running) == (ran.id, True)
    assert found.current.restart == ALWAYS


@given(turns=st.lists(st.booleans(), max_size=60))
def test_two_that_do_the_same_at_once_do_it_once(turns: list[bool]) -> None:
    """Each looks, and does what it decided only when the other may have done so long since."""
    engine = Engine(current=OLD)
    decided: dict[bool, Step | None] = {True: None, False: None}
    for turn in turns:
        step = decided[turn]
        if step is None:
            decided[turn] = forward(engine.look(), V2)
            continue
        decided[turn] = None
        try:
            engine.do(step, V2)
        except Refused:
            continue
    go(engine, ahead(V2), V2)
    is_updated(engine)


def test_what_this_deployment_made_is_not_kept_instead_of_the_old_one() -> None:
    """Where the image changed meanwhile, the container made of the first one goes."""
    engine = Engine(current=OLD)
    go(engine, ahead(V2), V2)
    moved = replace(V2, image="image-2b")
    go(engine, ahead(moved), moved)
    is_updated(engine, moved)
    go(engine, home(), HOME)
    assert engine.at == {Place.CURRENT: OLD}


def test_the_same_version_is_deployed_anew_by_another_deployment() -> None:
    """Which is a restart, and has its way back."""
    engine = Engine(current=OLD)
    again = Wanted("web-01", "v1", "deploy-1", "image-1")
    assert go(engine, ahead(again), again) == STEPS
    is_updated(engine, again)


def test_without_the_old_container_the_way_back_is_an_update() -> None:
    """Also where what was kept is known to be of another version."""
    made = replace(OLD, id="made", version="v2", instance="web-01", deployment="deploy-1")
    assert back(Found(current=made), HOME) == (False, None)
    other = replace(OLD, version="v0", running=False)
    assert back(Found(current=made, before=other), HOME) == (False, None)


def test_a_kept_container_that_no_tag_tells_the_version_of_is_what_ran_before() -> None:
    """It was there when the deployment began."""
    engine = Engine(current=replace(OLD, version=None))
    go(engine, ahead(V2), V2)
    go(engine, home(), HOME)
    assert engine.at == {Place.CURRENT: replace(OLD, version=None)}


def test_what_lockgate_did_not_make_is_never_removed() -> None:
    """A container of somebody else that has one of the names is in the way, and stays."""
    other = Container("other", "image-9", None, running=True)
    engine = Engine(current=OLD, next=other)
    with pytest.raises(InTheWay) as refusal:
        go(engine, ahead(V2), V2)
    assert refusal.value.place is Place.NEXT
    engine = Engine(current=OLD, before=other)
    with pytest.raises(InTheWay) as refusal:
        go(engine, ahead(V2), V2)
    assert refusal.value.place is Place.BEFORE
    assert letting_go(Found(current=OLD, before=other), HOME) is None


def test_at_the_end_only_what_runs_is_left() -> None:
    """The kept one goes, unless nothing runs."""
    engine = Engine(current=OLD)
    go(engine, ahead(V2), V2)
    found = engine.look()
    assert found.current
    stopped = replace(found, current=replace(found.current, running=False))
    assert letting_go(stopped, HOME) is None
    go(engine, partial(letting_go, wanted=HOME), HOME)
    assert engine.at == {Place.CURRENT: found.current}


def test_the_first_container_is_made_without_another() -> None:
    """And runs under its name."""
    engine = Engine()
    go(engine, ahead(V2), V2)
    found = engine.look()
    assert set(engine.at) == {Place.CURRENT}
    assert found.current
    assert found.current.running


@pytest.mark.parametrize("place", list(Place))
def test_what_is_dead_is_removed_whatever_its_name(place: Place) -> None:
    """A container whose removal failed half way never runs again, and keeps its name."""
    dead = replace(OLD, running=False, dead=True)
    assert clearing(Found(**{place.name.lower(): dead})) == Remove("old", place)
    assert clearing(Found(**{place.name.lower(): OLD})) is None
