"""What a lock says of the process that holds it, and whether that process is known to be dead."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import secrets
import socket
import time
from pathlib import Path

from pipelines.storage import atomic


@dataclasses.dataclass(frozen=True)
class Holder:
    """One attempt of one process.

    Attributes:
        host: its name, for people.
        machine: the boot of the machine and where its process numbers count from.
        pid: the process number.
        started: when the process started, in ticks since the boot; tells a number used again.
        token: of this attempt alone, hexadecimal.
        since: when it began, in unix time by its own clock; None where an older program wrote it.
    """

    host: str
    machine: str
    pid: int
    started: str
    token: str
    since: float | None = None

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    def to_bytes(self) -> bytes:
        """Return what `parse` reads."""
        return atomic.to_json(dataclasses.asdict(self))

    def is_same_process(self, other: Holder) -> bool:
        """Tell whether both are attempts of one process."""
        return (self.machine, self.pid, self.started) == (other.machine, other.pid, other.started)

    def is_dead(self) -> bool:
        """Return True where that is certain; of another machine's processes nothing is."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # another user's, or no process number
            pass
        state, started = _state_and_start(self.pid)
        return state in ("Z", "X") or (
            started != self.started and "" not in (started, self.started)
        )


def this_process() -> Holder:
    """Describe a new attempt of this process."""
    pid = os.getpid()
    started, token = _state_and_start(pid)[1], secrets.token_hex(16)
    return Holder(socket.gethostname(), _machine(), pid, started, token, round(time.time(), 3))


def parse(content: bytes) -> Holder | None:
    """Read a holder; None where the bytes are damaged."""
    try:
        value = json.loads(content)
        host, machine, started = (str(value[key]) for key in ("host", "machine", "started"))
        token, since = value["token"], value.get("since")
        bytes.fromhex(token)  # it becomes part of a file's name
        if since is not None and not math.isfinite(since):
            return None
        return Holder(host, machine, int(value["pid"]), started, token, since)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return " ".join(parts)


def _state_and_start(pid: int) -> tuple[str, str]:
    """Return the 3rd and the 22nd field of proc(5)'s stat; empty where they are not to be had."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""
