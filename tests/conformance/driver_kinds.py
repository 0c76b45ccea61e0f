"""A real place for each kind of driver, where its ways of going wrong can be chosen."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollouts.adapters import Surroundings
from rollouts.conformance.drivers import OLD, Subject, Trouble
from rollouts.facts import Instance
from tests import agent

SCRIPT = Path(__file__).with_name("place.sh")
WEB = Instance("web-01", "127.0.0.1", 8080, server="srv-1")
ALL = frozenset(Trouble)


class Folder:
    """A place that is a folder: place.sh says what runs there."""

    troubles = ALL

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: Mapping[str, Any] = {}
        self.surroundings = Surroundings(instances=(WEB,), deployment="deploy-0123456789ab")
        self.instance = WEB
        self.broken: tuple[Mapping[str, Any], Instance, str] = ({}, WEB, "")
        (folder / "at-work").mkdir()
        (folder / "runs").write_text(OLD)
        (folder / "trouble").write_text(f"{Trouble.NONE}\n")

    def arguments(self, *last: str) -> list[str]:
        return ["sh", str(SCRIPT), str(self.folder), *last]

    async def runs(self) -> str:
        return (self.folder / "runs").read_text()

    async def arrange(self, trouble: Trouble) -> None:
        # At once, for somebody may be reading it.
        (self.folder / "next").write_text(f"{trouble}\n")
        (self.folder / "next").rename(self.folder / "trouble")

    async def at_work(self) -> bool:
        return any(_runs(entry.name) for entry in (self.folder / "at-work").iterdir())


def _runs(pid: str) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@contextmanager
def command(folder: Path) -> Iterator[Subject]:
    place = Folder(folder)
    place.settings = {
        "kind": "command",
        "update": place.arguments("update", "{version}"),
        "prepare": ["true"],
        "version": place.arguments("version"),
        "artifact": place.arguments("artifact", "{version}"),
    }
    gone = {**place.settings, "rollback": ["/nowhere/back", "{version}"]}
    place.broken = (gone, WEB, "/nowhere/back")
    yield place


@contextmanager
def webhook(folder: Path) -> Iterator[Subject]:
    """An agent that runs the same script for what it is asked."""
    place = Folder(folder)
    at_work = agent.Agent(lambda asked: place.arguments("update", asked["version"]))

    def answer(request: agent.Request) -> agent.Answer:
        if request.method == "GET" and request.target == "/version":
            return agent.Answer(200, {"version": (folder / "runs").read_text()})
        return at_work(request)

    with agent.serving(answer) as address:
        place.settings = {
            "kind": "webhook",
            "url": f"{address}/update",
            "version_url": f"{address}/version",
            "secret_env": "CONFORMANCE_SECRET",
            "cancel": True,
        }
        # Nothing listens on the first port, by any other name of this machine.
        elsewhere = {**place.settings, "url": "http://localhost:1/update"}
        place.broken = (elsewhere, WEB, "localhost:1")
        try:
            yield place
        finally:
            at_work.close()


KINDS: dict[str, Callable[[Path], Any]] = {"command": command, "webhook": webhook}
TROUBLES: dict[str, frozenset[Trouble]] = dict.fromkeys(KINDS, ALL)
