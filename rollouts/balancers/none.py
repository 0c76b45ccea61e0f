"""No balancer: each instance says itself whether it takes requests, by its readiness.

Whoever sends requests (clients with a list, a DNS or service registry, a balancer that Lockgate
does not know) looks at the same page as this does: 200 to 299 within a second is ready, and
anything else is not. Where instances can be asked to drain, they are; where they can't, the
order and the checks of a deployment hold, but requests reach an instance while it restarts.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from rollouts import policy
from rollouts.adapters import (
    SettingsError,
    Surroundings,
    check_secret,
    checked,
    secret,
    wrong_keys,
)
from rollouts.balancers.servers import (
    CONFIRM_TIMEOUT,
    bounded,
    check_weights,
    known,
)
from rollouts.facts import FULL_WEIGHT, Answer, BalancerReport, Instance, Server, ServerState
from rollouts.ports import Balancer, BalancerError, BalancerUnreachable
from rollouts.probes import AnswerError, HttpProbe

ANSWER_TIMEOUT = 1.0  # seconds for one answer
AT_ONCE = 50  # instances that are asked at the same time
READ_BACK_INTERVAL = 0.05  # seconds between two looks
METHODS = ("POST", "PUT", "DELETE")


@dataclass(frozen=True)
class Request:
    """What an instance is sent to have it drain, or take requests again."""

    path: str
    method: str

    @classmethod
    def parse(cls, raw: Any) -> "Request":
        """Return the request of `{path, method}`, POST if none is said; raise ValueError."""
        if not isinstance(raw, dict) or not {"path"} <= set(raw) <= {"path", "method"}:
            raise ValueError('must be like {"path": "/drain", "method": "POST"}')
        _check_path(raw["path"])
        if raw.get("method", METHODS[0]) not in METHODS:
            raise ValueError(f"must have one of these as method: {', '.join(METHODS)}")
        return cls(raw["path"], raw.get("method", METHODS[0]))


def _check_path(raw: Any) -> None:
    policy.BY_KEY["health_check_path"].check(raw)


class Asking(HttpProbe):
    """A probe that can also tell an instance something, under the same rules."""

    async def tell(self, instance: Instance, request: Request, headers: Mapping[str, str]) -> None:
        """Send `request`; raise AnswerError unless it is answered with 200 to 299."""
        refused: AnswerError | None = None
        for address in await self._addresses(instance):
            host = f"[{address}]" if ":" in address else address
            url = f"http://{host}:{instance.port}{request.path}"
            try:
                async with self._client.stream(
                    request.method, url, headers={"Host": instance.address, **headers}
                ) as response:
                    code = response.status_code
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                refused = AnswerError(f"{instance.address} can't be reached: {error}")
                continue
            if 200 <= code < 300:
                return
            raise AnswerError(f"{request.method} {request.path} answered {code}", code)
        raise refused or AnswerError(f"{instance.hostname} has no address")


class NoBalancer(Balancer):
    """The readiness of `instances`. For one event loop.

    Without `drain` an instance can't be taken out, and what this object was told is all that
    `report` can say of that: another one says "ready" of an instance that is.
    """

    def __init__(
        self,
        instances: tuple[Instance, ...],
        asking: Asking,
        drain: Request | None,
        undrain: Request | None,
        token_env: str = "",
    ) -> None:
        self._instances = {one.server: one for one in instances}
        self._asking = asking
        self._drain = drain
        self._undrain = undrain
        self._token_env = token_env
        self._out: set[str] = set()
        self._places = asyncio.Semaphore(AT_ONCE)

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], surroundings: Surroundings) -> "NoBalancer":
        """Return what `{kind, ready_path, drain, undrain, token_env}` say; raise SettingsError."""
        errors = wrong_keys(
            raw, required=("kind", "ready_path"), optional=("drain", "undrain", "token_env")
        )
        checks: dict[str, Callable[[Any], Any]] = {
            "ready_path": _check_path,
            "drain": Request.parse,
            "undrain": Request.parse,
            "token_env": check_secret,
        }
        checked(raw, checks, errors)
        for one, other in (("drain", "undrain"), ("undrain", "drain")):
            if one in raw and other not in raw:
                errors[other] = f"is missing: {one} needs it, for the way back"
        if errors:
            raise SettingsError(errors)
        asked = replace(
            policy.parse(),
            health_check_path=raw["ready_path"],
            health_check_timeout=ANSWER_TIMEOUT,
        )
        drain, undrain = (
            Request.parse(raw[key]) if key in raw else None for key in ("drain", "undrain")
        )
        asking = Asking(None, asked, time.time, surroundings.refuses)
        return cls(surroundings.instances, asking, drain, undrain, raw.get("token_env", ""))

    @property
    def takes_weights(self) -> bool:
        """False: there is nobody to give weights to."""
        return False

    async def report(self) -> BalancerReport:
        """Return every instance as it answers now; nothing of it is counted."""
        answers = await asyncio.gather(*(self._ask(server) for server in self._instances))
        return BalancerReport(
            {
                server: Server(
                    name=server,
                    state=self._state(server, answer),
                    up=answer.code is not None,
                    sessions=None,
                    weight=FULL_WEIGHT,
                    configured=FULL_WEIGHT,
                )
                for server, answer in zip(self._instances, answers, strict=True)
            }
        )

    async def drain(self, server: str) -> None:
        """Have `server` say that it is not ready; nothing is to do where it says so already.

        Where it can't be asked to, it is only noted that it should be out.
        """
        instance = self._instances[known(server, self._instances)]
        if self._drain is None:
            self._out.add(server)
            return
        await self._settle(instance, self._drain, ready=False)

    async def ready(self, server: str) -> None:
        """Have `server` say that it is ready; raise BalancerUnreachable while it does not."""
        instance = self._instances[known(server, self._instances)]
        self._out.discard(server)
        await self._settle(instance, self._undrain, ready=True)

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Accept full weights alone: nobody is there who could share requests out."""
        check_weights(weights, self._instances)
        if any(weight != FULL_WEIGHT for weight in weights.values()):
            raise BalancerError(
                "no balancer is there to share requests out by weights (kind none): deploy "
                "with the rolling strategy and without slow_start"
            )

    async def cut(self, server: str) -> None:
        """Refuse: only the instance itself could end its sessions."""
        raise BalancerError(f"the sessions of {server[:64]} can't be cut without a balancer")

    async def aclose(self) -> None:
        """Close what is still open."""
        await self._asking.aclose()

    def _state(self, server: str, answer: Answer) -> ServerState:
        ready = answer.ok and server not in self._out
        return ServerState.READY if ready else ServerState.DRAIN

    async def _ask(self, server: str) -> Answer:
        async with self._places:
            return await self._asking.ask(self._instances[server])

    async def _settle(self, instance: Instance, request: Request | None, *, ready: bool) -> None:
        """Tell `instance`, unless it is so already, and return once it answers as told."""
        said = "not ready"

        async def settle() -> None:
            nonlocal said
            answer = await self._ask(instance.server)
            if answer.ok is ready:
                return
            if request is not None:
                await self._tell(instance, request)
            while (answer := await self._ask(instance.server)).ok is not ready:
                said = "ready" if answer.ok else f"not ready ({answer.error})"
                await asyncio.sleep(READ_BACK_INTERVAL)

        try:
            await bounded(settle, instance.address, CONFIRM_TIMEOUT)
        except BalancerUnreachable:
            wanted = "ready" if ready else "drained"
            raise BalancerUnreachable(
                f"{instance.address}, which should be {wanted}, says that it is {said}"
            ) from None

    async def _tell(self, instance: Instance, request: Request) -> None:
        headers: dict[str, str] = {}
        try:
            if self._token_env:
                headers["Authorization"] = f"Bearer {secret(self._token_env)}"
            await self._asking.tell(instance, request, headers)
        except LookupError as error:
            raise BalancerError(str(error)) from error
        except AnswerError as error:
            kind = BalancerUnreachable if error.code is None else BalancerError
            raise kind(f"{instance.address}: {error}") from error
