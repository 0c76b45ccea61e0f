"""A Docker Engine of one's own, in a folder, with images made of what is on this machine.

It needs root, and dockerd (Debian's `docker.io`). It is set apart from any other engine of the
machine: it changes no firewall, has no default bridge, and copies files rather than to mount
them over each other, which is slow for big images and runs everywhere. A container of the
images made here has next to nothing of its own: the machine's programs are mounted into it.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import requests
from docker import APIClient
from docker.errors import DockerException

from dashboard.local.errors import LocalError

START_PATIENCE = 30.0  # seconds
STOP_PATIENCE = 20.0  # seconds until it is killed
CALL_TIMEOUT = 20  # seconds for one answer
LOOK_INTERVAL = 0.05  # seconds
MOUNTS = Path("/proc/self/mountinfo")
# It makes this one for itself where there is none, wherever the rest is told to be.
KEY = Path("/etc/docker/key.json")
# With these a program of this machine runs in a container that has nothing.
SHARED = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")


class DockerEngine:
    """A dockerd that keeps all in `folder`, whose path has to be short: sockets lie in it."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self._folder = folder
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Return where its API listens."""
        return self._folder / "docker.sock"

    @property
    def address(self) -> str:
        """Return the same as the inventory has it."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        """Return what it says."""
        return self._folder / "dockerd.log"

    @property
    def _config(self) -> Path:
        return self._folder / "daemon.json"

    @property
    def _key_is_ours(self) -> Path:
        return self._folder / "key-is-ours"

    def client(self) -> APIClient:
        """Return a client, to be closed; raise DockerException where it does not answer."""
        return APIClient(base_url=self.address, version="auto", timeout=CALL_TIMEOUT)

    def start(self) -> None:
        """Start it and wait until it answers; raise LocalError with what it said last."""
        program = shutil.which("dockerd")
        if program is None:
            raise LocalError(
                "dockerd is not on this machine: install it ('apt-get install docker.io' on "
                "Debian and Ubuntu)."
            )
        if os.geteuid() != 0:
            raise LocalError("A Docker Engine of its own needs root.")
        self._clear()
        self.make_folder()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *self._arguments(), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            _until(self._answers, START_PATIENCE, self._why_not)
        except BaseException:
            self.stop()
            raise

    def make_folder(self) -> None:
        """Make what it needs before its start."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not KEY.exists():
            self._key_is_ours.touch()
        # Otherwise it would read the settings of the machine's own engine.
        self._config.write_text("{}\n")

    def stop(self) -> None:
        """Stop it with all its containers, and leave no process, mount or network behind."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                with suppress(DockerException, requests.RequestException):
                    self._empty()
                process.terminate()
            try:
                process.wait(STOP_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._clear()

    def _arguments(self) -> list[str]:
        return [
            *("--config-file", str(self._config)),
            *("--data-root", str(self._folder / "data")),
            *("--exec-root", str(self._exec_root)),
            *("--pidfile", str(self._folder / "pid")),
            *("-H", self.address),
            "--storage-driver=vfs",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--userland-proxy=false",
            "--log-level=warn",
        ]

    @property
    def _exec_root(self) -> Path:
        return self._folder / "exec"

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise LocalError(self._why_not())
        with suppress(OSError), socket.socket(socket.AF_UNIX) as plug:
            plug.connect(str(self.socket))
            with suppress(DockerException), closing(self.client()):
                return True
        return False

    def _why_not(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"No Docker Engine starts here: {lines[-1] if lines else 'it says nothing'}"

    def _empty(self) -> None:
        with closing(self.client()) as client:
            for container in client.containers(all=True):
                with suppress(DockerException):
                    client.remove_container(container["Id"], force=True)
            for network in client.networks(filters={"type": "custom"}):
                with suppress(DockerException):
                    client.remove_network(network["Id"])

    def _clear(self) -> None:
        """End and unmount what one that was killed, or is stopped, left in the folder."""
        left = list(_processes_of(self._exec_root))
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, STOP_PATIENCE)
        for mount in _mounts_below(self._folder):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        if self._key_is_ours.exists():
            KEY.unlink(missing_ok=True)
            self._key_is_ours.unlink()


@contextmanager
def running(folder: Path, options: Sequence[str] = ()) -> Iterator[DockerEngine]:
    """Run an engine in `folder` with further `options` of dockerd; raise LocalError."""
    engine = DockerEngine(folder, options)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def make_image(
    client: APIClient,
    tag: str,
    files: Mapping[str, Path | bytes],
    *,
    env: Mapping[str, str] | None = None,
    cmd: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> str:
    """Make an image `NAME:TAG` of nothing but `files`, by their paths in it; return its ID.

    `cmd` is what its containers run, as a rule a program that `shared` mounts. `changes` are
    further lines as a Dockerfile has them.
    """
    lines = [f"ENV {name}={_quoted(value)}" for name, value in (env or {}).items()]
    lines += [f"CMD {json.dumps(list(cmd))}"] if cmd else []
    repository, _, version = tag.rpartition(":")
    answer = client.import_image_from_data(
        _tar(files), repository=repository, tag=version, changes=[*lines, *changes]
    )
    told = json.loads(answer.strip().splitlines()[-1])
    if "error" in told:
        raise LocalError(f"the image {tag} can't be made: {told['error']}")
    return str(told["status"])


def shared() -> list[str]:
    """Return the binds that bring the machine's programs and this Python into a container."""
    folders = [Path(each) for each in SHARED] + [Path(sys.base_prefix).resolve()]
    kept: list[Path] = []
    for each in folders:
        if each.exists() and not any(each.is_relative_to(other) for other in kept):
            kept.append(each)
    return [f"{each}:{each}:ro" for each in kept]


def python() -> str:
    """Return the path of this Python where `shared` brings it, without a virtual environment."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return str(Path(sys.base_prefix).resolve() / "bin" / f"python{version}")


def _tar(files: Mapping[str, Path | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _quoted(value: str) -> str:
    return json.dumps(value).replace("$", "\\$")


def _until(holds: Callable[[], bool], within: float, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            raise LocalError(why())
        time.sleep(LOOK_INTERVAL)


def _processes_of(root: Path) -> Iterator[psutil.Process]:
    """Yield what runs for an engine that keeps its sockets in `root`, containers included."""
    for pid_file in root.glob("containerd/daemon/io.containerd.runtime.v2.task/*/*/init.pid"):
        with suppress(ValueError, psutil.Error, OSError):
            process = psutil.Process(int(pid_file.read_text()))
            # The number may be another's since the machine was started anew.
            if "/docker/" in Path(f"/proc/{process.pid}/cgroup").read_text():
                yield process
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if Path(words[0]).name.startswith(("dockerd", "containerd")) and any(
            str(root) in word for word in words
        ):
            yield process


def _mounts_below(folder: Path) -> list[str]:
    """Return where something is mounted in `folder`, the innermost first."""
    places = [line.split()[4] for line in MOUNTS.read_text().splitlines()]
    inside = [each for each in places if Path(each).is_relative_to(folder.resolve())]
    return sorted(inside, key=len, reverse=True)
