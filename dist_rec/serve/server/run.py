"""The process of a server."""

import signal
import socket
from pathlib import Path

import uvicorn

from dist_rec.serve.server.app import create_app
from dist_rec.serve.server.core import open_store
from dist_rec.serve.server.settings import Settings

BACKLOG = 1024  # connections that wait to be accepted
# Longer than clients and balancers keep idle connections, usually up to 60 s: who closes first may lose a request.
KEEP_ALIVE_S = 75


def run(export: Path, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT: then nothing more is accepted, what was asked is answered, states are written,
    and this returns.

    Raises ConfigError if the export or a setting is wrong, OSError if the port is taken."""
    import torch

    torch.set_num_threads(settings.threads)  # of the thread that verifies an export, too
    store = open_store(settings)
    errors: list[Exception] = []

    def failed(error: Exception) -> None:
        errors.append(error)
        server.should_exit = True

    app = create_app(export, settings, store, failed)
    with listening_at(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=settings.grace_s,
        )
        server = uvicorn.Server(config)
        # uvicorn raises the signal that ended it once more, for the handlers that were there before.
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            server.run(sockets=[listening])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if errors:
        raise errors[0]


def listening_at(host: str, port: int) -> socket.socket:
    """Raises OSError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Connections inherit it. asyncio sets it on sockets that it made itself alone, and without it an answer waits for
    # the acknowledgement of its own head: 40 ms.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found
