"""Output of a program, made fit for a log: decoded, without escapes, line by line, bounded."""

import re
import signal
from collections.abc import Callable
from contextlib import suppress

MAX_OUTPUT = 64 * 1024  # bytes of text that one call passes on
MAX_LINE = 2000  # characters
# Bytes of a line that are kept until its end; escapes may take more than what is shown.
KEPT_BYTES = 16 * 1024

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, links
    r"|\x1b[ -/]*[0-~]?"
)
# Control characters but the tab, and the marks that turn the direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def clean(line: bytes) -> str:
    """Return `line` as text that changes nothing but itself on any screen."""
    text = _CONTROLS.sub("", _ESCAPES.sub("", line.decode(errors="replace"))).rstrip()
    return text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]} … (line cut)"


def failure(status: int, last: str) -> str:
    """Return how a program failed, for people: `status` as subprocess gives it, its `last` line."""
    said = last or "without any output"
    if status < 0:
        with suppress(ValueError):
            return f"ended by {signal.Signals(-status).name}: {said}"
    return f"exit status {status}: {said}"


class LineSink:
    """Takes bytes as they come and passes lines on, until MAX_OUTPUT; then says that it cut.

    `last` is the last line that was not empty, whether it was passed on or not.
    """

    def __init__(self, output: Callable[[str], None]) -> None:
        self._output = output
        self._rest = b""
        self._passed = 0
        self._cut = False
        self.last = ""

    def feed(self, chunk: bytes) -> None:
        """Pass on the lines that `chunk` completes."""
        data = self._rest + chunk
        # A lone carriage return (a progress bar) ends a line too; the last may not be alone.
        held = b"\r" if data.endswith(b"\r") else b""
        data = data.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        self._rest = rest[:KEPT_BYTES] + held
        if self._cut:
            # Nothing of it is shown any more but, should the program fail, its last words.
            lines = [line for line in lines[-20:] if line.strip()][-1:]
        for line in lines:
            self._take(line)

    def close(self) -> None:
        """Pass on a last line that has no end."""
        if self._rest:
            self._take(self._rest)
            self._rest = b""

    def _take(self, line: bytes) -> None:
        text = clean(line[:KEPT_BYTES])
        if text.strip():
            self.last = text
        if self._cut:
            return
        self._passed += len(text.encode()) + 1
        if self._passed > MAX_OUTPUT:
            self._cut = True
            self._output(f"… output cut here, after {MAX_OUTPUT // 1024} KiB")
        else:
            self._output(text)
