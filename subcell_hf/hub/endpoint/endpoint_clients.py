"""Who is awaited, for how long and with how many bytes, so that slow clients never delay the others.

A connection takes no place among those that are answered before its request is complete. Until then it may be cut off:
when it takes too long, and earlier when there are too many connections or bytes; whoever has been awaited longest goes
first, since a sound request is there within moments.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(eq=False)
class Client:
    """One connection.

    Attributes:
        connection: Its socket.
        awaited_since: Monotonic time since when its request is awaited; None while it is answered.
        held_bytes: Of its request, in memory.
        cut_off: Whether its connection is to be closed.
    """

    connection: socket.socket
    awaited_since: float | None
    held_bytes: int = 0
    cut_off: bool = False


class Clients:
    """All connections of a server.

    Args:
        patience_s: How long a request may take to come, from the end of the one before it.
        max_bytes: Bytes of requests that are held at once.
        max_connections: Connections at once; None: what the system's limit of open files allows, up to 1,024.
    """

    def __init__(self, patience_s: float, max_bytes: int, max_connections: int | None = None) -> None:
        self.patience_s, self.max_bytes = patience_s, max_bytes
        self.max_connections = max_connections or _most_connections()
        self._clients: set[Client] = set()
        self._lock = threading.Lock()
        self._looked_at = 0.0

    def join(self, connection: socket.socket) -> Client:
        """Await the first request of a new connection, for which another one may have to go."""
        client = Client(connection, time.monotonic())
        with self._lock:
            if len(self._clients) >= self.max_connections:
                slowest = _slowest(self._clients)
                if slowest is not None:
                    _cut_off(slowest)
            self._clients.add(client)
        return client

    def leave(self, client: Client) -> None:
        """Forget a connection that was closed."""
        with self._lock:
            self._clients.discard(client)

    def hold(self, client: Client, count: int) -> bool:
        """Count bytes that have come.

        Returns:
            Whether there is room for them; False where everybody else is faster, or being answered.
        """
        with self._lock:
            client.held_bytes += count
            while sum(other.held_bytes for other in self._clients if not other.cut_off) > self.max_bytes:
                slowest = _slowest(other for other in self._clients if other.held_bytes)
                if slowest is None or slowest is client:
                    return False
                _cut_off(slowest)
        return True

    def answer(self, client: Client) -> None:
        """The request is complete; its bytes count until `wait_for`."""
        with self._lock:
            client.awaited_since = None

    def wait_for(self, client: Client) -> None:
        """The request was answered; await the next one."""
        with self._lock:
            client.awaited_since, client.held_bytes = time.monotonic(), 0

    def cut_off_overdue(self) -> None:
        """Cut off all that have been awaited for too long; cheap enough to be called all the time."""
        now = time.monotonic()
        if now - self._looked_at < min(0.5, self.patience_s / 4):
            return
        self._looked_at = now
        with self._lock:
            for client in self._clients:
                if client.awaited_since is not None and now - client.awaited_since > self.patience_s:
                    _cut_off(client)


def _slowest(clients: Iterable[Client]) -> Client | None:
    """Who has been awaited longest and was not cut off yet."""
    awaited = {client: client.awaited_since for client in clients if not client.cut_off}
    since = {client: start for client, start in awaited.items() if start is not None}
    return min(since, key=since.__getitem__) if since else None


def _cut_off(client: Client) -> None:
    """Let the thread that reads see the end of the stream; it can still send why."""
    client.cut_off = True
    with contextlib.suppress(OSError):  # the client has gone already
        client.connection.shutdown(socket.SHUT_RD)


def _most_connections() -> int:
    if os.name != "posix":
        return 1024
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1024 if soft == resource.RLIM_INFINITY else max(1, min(1024, soft // 2))
