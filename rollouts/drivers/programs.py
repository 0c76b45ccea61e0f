"""What drivers share that run the same programs for an instance, wherever they run them."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from rollouts.facts import Instance, Running
from rollouts.ports import Driver, DriverError
from rollouts.probes import MAX_VERSION

# Settings that are argument templates, with placeholders of the instance.
PROGRAMS = ("update", "prepare", "rollback", "version", "artifact")


class Programs(Driver):
    """`programs` by their key: `update`, and of the others in PROGRAMS those that there are."""

    def __init__(self, programs: Mapping[str, Sequence[str]]) -> None:
        self._programs = dict(programs)

    @abstractmethod
    async def _run(
        self,
        key: str,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Run one of the programs to its end; raise DriverError if it fails or can't start."""

    async def prepare(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Run the `prepare` command, where there is one; raise DriverError if it fails."""
        if "prepare" in self._programs:
            await self._run("prepare", instance, version, output, left)

    async def update(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Run the `update` command; raise DriverError if it fails or can't be started."""
        await self._run("update", instance, version, output, left)

    async def roll_back(
        self,
        instance: Instance,
        version: str,
        output: Callable[[str], None],
        left: Callable[[], float],
    ) -> None:
        """Run the `rollback` command, or `update` where there is none; raise DriverError."""
        key = "rollback" if "rollback" in self._programs else "update"
        await self._run(key, instance, version, output, left)

    @property
    def reports_version(self) -> bool:
        """Whether there is a `version` command."""
        return "version" in self._programs


def running_of(line: str) -> Running:
    """Return what the first line that a `version` command printed says; raise DriverError."""
    version = line.strip()
    if not 1 <= len(version) <= MAX_VERSION:
        raise DriverError(f"the version command printed no version (1 to {MAX_VERSION} characters)")
    return Running(version)
