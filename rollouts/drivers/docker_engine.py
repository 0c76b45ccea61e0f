"""One Docker Engine: connected when it is first asked, every call short and in a thread.

A call that is cancelled is waited for, so that nothing of it happens after its caller is gone;
it is bounded by CALL_TIMEOUT twice. What the engine was told it may go on doing after that.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import requests
from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import APIError, DockerException, TLSParameterError
from docker.tls import TLSConfig

from rollouts.drivers.docker_settings import Settings
from rollouts.drivers.output import clean
from rollouts.ports import DriverError
from rollouts.ssh import Ssh, SshError

T = TypeVar("T")

CALL_TIMEOUT = 3  # seconds to connect, and as many for an answer
BOUND = 2.0 * CALL_TIMEOUT  # seconds that a call may take
THREADS = 32  # calls at the same time
PULL_SILENCE = 60  # seconds without a word after which a pull has failed
SSH_SOCKET = "/var/run/docker.sock"  # on a host that is reached over SSH
MAX_WORDS = 500  # characters of an engine's error


class Gone(DriverError):
    """There is no such container, image or network."""


class Busy(DriverError):
    """The engine does something with it already, or its name is taken."""


class NoAnswer(DriverError):
    """The engine can't be reached, or did not answer in time: what it did is not known."""


class Stopped(DriverError):
    """The lease is over: nothing more may be done."""

    def __init__(self) -> None:
        super().__init__("stopped: the deployment may be another worker's by now")


class Engine:
    """The engine at `address`: unix:///PATH, tcp://HOST:PORT or ssh://HOST[/PATH]."""

    def __init__(
        self, address: str, settings: Settings, ssh: Ssh | None, threads: ThreadPoolExecutor
    ) -> None:
        self.address = address
        self._settings = settings
        self._ssh = ssh
        self._threads = threads
        self._client: APIClient | None = None
        self._url = ""
        self._stack = AsyncExitStack()
        self._connecting = asyncio.Lock()

    async def call(self, ask: Callable[[APIClient], T]) -> T:
        """Return what `ask` gets; raise DriverError with what went wrong, in a sentence."""
        client = await self._connected()
        try:
            return await self._in_thread(lambda: ask(client))
        except NoAnswer:
            await self._forget(client)
            raise

    async def pull(
        self,
        reference: str,
        login: dict[str, str] | None,
        told: Callable[[dict[str, Any]], None],
        left: Callable[[], float],
    ) -> None:
        """Have the engine fetch an image; `told` gets the engine's words, in this event loop.

        Ends when the lease is over. Cancelled it returns at once: the engine may go on for as
        long as a layer takes, which changes nothing that runs.
        """
        await self._connected()
        loop, ended = asyncio.get_running_loop(), threading.Event()

        def run() -> None:
            with self._new_client(PULL_SILENCE) as client:
                errors = []
                for event in client.pull(reference, stream=True, decode=True, auth_config=login):
                    if ended.is_set():
                        return
                    if "error" in event:
                        errors.append(_cut(str(event["error"])))
                    loop.call_soon_threadsafe(told, event)
                if errors:
                    raise DriverError(errors[0])

        pulling = self._submit(run)
        try:
            while not (await asyncio.wait({pulling}, timeout=0.5))[0]:
                if left() <= 0:
                    raise Stopped
            await pulling
        finally:
            ended.set()
            pulling.cancel()

    async def aclose(self) -> None:
        """Close the connections; the object may be used anew after that."""
        await self._forget(self._client)

    async def _connected(self) -> APIClient:
        async with self._connecting:
            if self._client is None:
                self._url = await self._where()
                try:
                    self._client = await self._in_thread(lambda: self._new_client(CALL_TIMEOUT))
                except DriverError:
                    await self._stack.aclose()
                    raise
            return self._client

    async def _where(self) -> str:
        """Return the address for the library; for a host over SSH that of a forwarded socket."""
        if self._ssh is None:
            return self.address
        host, slash, path = self.address.removeprefix("ssh://").partition("/")
        try:
            forwarded = self._ssh.socket(host, slash + path or SSH_SOCKET)
            return "unix://" + await self._stack.enter_async_context(forwarded)
        except SshError as error:
            raise NoAnswer(f"the Docker Engine at {self.address}: {error}") from error

    def _new_client(self, timeout: int, version: str = "") -> APIClient:
        """Return a client that speaks the API's `version`: the engine's own if it is not said."""
        if not version:
            self._look_for_socket(timeout)
            with self._new_client(timeout, MINIMUM_DOCKER_API_VERSION) as client:
                version = str(client.version(api_version=False)["ApiVersion"])
        tls: TLSConfig | bool = False
        if files := self._settings.tls:
            tls = TLSConfig(
                client_cert=(files["cert"], files["key"]), ca_cert=files["ca"], verify=True
            )
        client = APIClient(base_url=self._url, version=version, timeout=timeout, tls=tls)
        # Neither proxies nor authorities of the worker's environment go before the settings.
        client.trust_env = False
        return client

    def _look_for_socket(self, timeout: int) -> None:
        """Raise OSError where nobody listens: clearer than the library, which leaks a socket."""
        if self._url.startswith("unix://"):
            with socket.socket(socket.AF_UNIX) as plug:
                plug.settimeout(timeout)
                plug.connect(self._url.removeprefix("unix://"))

    async def _forget(self, client: APIClient | None) -> None:
        """Have the next call connect anew, unless that was done already."""
        if client is not None and client is self._client:
            self._client = None
            client.close()
            await self._stack.aclose()

    async def _in_thread(self, ask: Callable[[], T]) -> T:
        asking = self._submit(ask)
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            await asyncio.wait({asking})
            raise

    def _submit(self, ask: Callable[[], T]) -> "asyncio.Future[T]":
        def worded() -> T:
            try:
                return ask()
            except (DockerException, requests.RequestException, OSError) as error:
                raise self._worded(error) from error

        future: Future[T] = self._threads.submit(worded)
        asking = asyncio.wrap_future(future)
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        return asking

    def _worded(self, error: Exception) -> DriverError:
        if isinstance(error, APIError):
            return _refusal(error)
        if isinstance(error, TLSParameterError):
            return DriverError(
                f"`tls` of the service's driver names a file that is not there: {error}"
            )
        return self._unreachable(error)

    def _unreachable(self, error: Exception) -> DriverError:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return DriverError(
                    f"the certificate of the Docker Engine at {self.address} is not signed by "
                    f"`tls.ca`, or is for another host: {cause.verify_message}"
                )
            if isinstance(cause, ssl.SSLError):
                return DriverError(
                    f"the Docker Engine at {self.address} does not take `tls.cert`, or does not "
                    f"speak TLS: {cause.reason}"
                )
            if isinstance(cause, PermissionError):
                return NoAnswer(
                    f"the worker may not open {self.address}: put its user into the group that "
                    "owns the socket, docker as a rule"
                )
            if isinstance(cause, TimeoutError | requests.Timeout):
                return NoAnswer(
                    f"no answer from the Docker Engine at {self.address} within {CALL_TIMEOUT} s"
                )
        named = (each.strerror for each in causes if isinstance(each, OSError) and each.strerror)
        words = next(named, str(error))
        return NoAnswer(
            f"the Docker Engine at {self.address} can't be reached ({_cut(str(words))}): is it "
            "running, and is `engine` of the service's driver right?"
        )


# What an engine says, not as a conflict, of a container that somebody else renames or removes.
SOMEBODY_ELSE = (
    "same name as its current name",
    "marked for removal",
    "unable to remove filesystem",
)


def _refusal(error: APIError) -> DriverError:
    words = _cut(str(error.explanation or error))
    status = error.status_code
    if status == 404 and "no such" in words.lower():
        return Gone(words)
    busy = status == 409 or any(each in words for each in SOMEBODY_ELSE)
    return Busy(words) if busy else DriverError(words)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what led to it, which the library hides at several depths."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            further = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
            waiting += [each for each in further if isinstance(each, BaseException)]


def _cut(text: str) -> str:
    text = clean(" ".join(text.split()).encode())
    return text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]} …"
