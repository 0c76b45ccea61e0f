"""What an instance runs as its driver tells it, beside what the instance says itself."""

import asyncio
from collections.abc import Callable

import pytest

from rollouts.facts import Answer, Instance, Running
from rollouts.ports import Driver, DriverError
from rollouts.probes import WithDriver
from rollouts.verdicts import judge

WEB = Instance("web-01", "10.0.0.11", 8080, "web-01")
WELL = Answer(0.0, ok=True, code=200)


class Telling(Driver):
    """A driver that tells what runs, fails to, or never answers."""

    def __init__(self, told: Running | DriverError | None) -> None:
        self.told = told
        self.asked = 0

    async def prepare(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        raise NotImplementedError

    update = prepare

    @property
    def reports_version(self) -> bool:
        return True

    async def running(self, instance: Instance) -> Running:
        self.asked += 1
        if self.told is None:
            await asyncio.sleep(60)
        if isinstance(self.told, DriverError):
            raise self.told
        return self.told or Running()


class Saying:
    """An instance that gives one answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    @property
    def reports_version(self) -> bool:
        return self.answer.version is not None

    async def ask(self, instance: Instance) -> Answer:
        return self.answer


async def test_the_driver_says_what_one_that_is_well_runs() -> None:
    """Version and digest, where the service does not say how an instance reports its version."""
    probe = WithDriver(Saying(WELL), Telling(Running("v2", "sha256:12")), 1)
    answer = await probe.ask(WEB)
    assert probe.reports_version
    assert (answer.ok, answer.version, answer.digest) == (True, "v2", "sha256:12")


async def test_what_the_instance_says_itself_goes_before() -> None:
    """The digest is the driver's all the same."""
    said = Answer(0.0, ok=True, version="v3")
    answer = await WithDriver(Saying(said), Telling(Running("v2", "sha256:12")), 1).ask(WEB)
    assert (answer.version, answer.digest) == ("v3", "sha256:12")


async def test_of_one_that_is_not_well_the_driver_is_not_asked() -> None:
    """It is bad already, and asking costs a connection."""
    driver = Telling(Running("v2"))
    said = Answer(0.0, ok=False, code=503)
    assert await WithDriver(Saying(said), driver, 1).ask(WEB) == said
    assert driver.asked == 0


@pytest.mark.parametrize(
    ("told", "why"),
    [(DriverError("no route to host"), "no route to host"), (None, "did not answer within 0.05 s")],
)
async def test_a_driver_that_can_not_tell_makes_no_version_of_it(
    told: DriverError | None, why: str
) -> None:
    """What is not known is not the version that is wanted, and the sentence says why."""
    answer = await WithDriver(Saying(WELL), Telling(told), 0.05).ask(WEB)
    assert answer.version is None
    judged = judge(answer, "v2")
    assert not judged.ok
    assert judged.error.startswith("reports no version instead of v2")
    assert why in judged.error
