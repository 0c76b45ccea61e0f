"""Talking to supervisord over its unix socket: XML-RPC, by the standard library alone."""

import http.client
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds for one answer; a stop waits until the process is gone


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _Connection(self._path)
        self._connection = host, connection  # where close() looks for it
        return connection


def call(path: Path, method: str, *arguments: Any) -> Any:
    """Return the answer of supervisord at `path` to one call.

    Raises xmlrpc.client.Fault where it refuses, OSError or HTTPException where it is not there.
    """
    with xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(path)) as proxy:
        return getattr(proxy.supervisor, method)(*arguments)
