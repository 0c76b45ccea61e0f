"""The API of Elastic Load Balancing, through boto3: in threads, because boto3 blocks.

Imported only where a service wants it: boto3 is an optional extra.
"""

import asyncio
import threading
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config

from rollouts.ports import BalancerError, BalancerUnreachable

CONNECT_TIMEOUT = 1.0  # seconds
READ_TIMEOUT = 1.5  # seconds
# One try: whoever asks the balancer asks again, and knows for how long.
CONFIG = Config(
    connect_timeout=CONNECT_TIMEOUT,
    read_timeout=READ_TIMEOUT,
    retries={"total_max_attempts": 1},
    user_agent_extra="lockgate",
)
# Codes of refusals that are over soon; those with a status from 500 on are too.
PASSING = {
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}


class Elb:
    """Asks one region, with the credentials that boto3 finds. For one event loop."""

    def __init__(self, region: str, endpoint_url: str | None, profile: str | None) -> None:
        self._where = {"region_name": region, "endpoint_url": endpoint_url}
        self._profile = profile
        self._client: Any = None
        self._making = threading.Lock()

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Return what AWS answers; raise BalancerError, and BalancerUnreachable if it may pass.

        A request can't be taken back: a call that is cancelled ends only when it has ended.
        """
        working = asyncio.ensure_future(asyncio.to_thread(self._ask, operation, arguments))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await _ended(working)
            raise

    def close(self) -> None:
        """Close the connections that are kept."""
        if self._client is not None:
            self._client.close()

    def _ask(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            with self._making:
                if self._client is None:
                    session = boto3.Session(profile_name=self._profile)
                    self._client = session.client("elbv2", config=CONFIG, **self._where)
            answer: dict[str, Any] = getattr(self._client, operation)(**arguments)
        except exceptions.ClientError as error:
            raise _refusal(operation, error.response) from error
        except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
            raise BalancerUnreachable(f"AWS can't be reached: {error}") from error
        except exceptions.BotoCoreError as error:
            raise BalancerError(f"AWS can't be asked: {error}") from error
        return answer


def _refusal(operation: str, response: Any) -> BalancerError:
    code = response["Error"].get("Code", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind = BalancerUnreachable if code in PASSING or status >= 500 else BalancerError
    return kind(f"AWS refused {operation}: {response['Error'].get('Message', '')} ({code})")


async def _ended(working: asyncio.Future[Any]) -> None:
    """Return once `working` has ended, however often this is cancelled meanwhile."""
    while not working.done():
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            continue
    working.exception()
