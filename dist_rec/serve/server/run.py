"""The process of a server."""

import signal
import socket
from pathlib import Path

import uvicorn

from dist_rec.serve.server.app import create_app
from dist_rec.serve.server.core import open_store
from dist_rec.serve.server.settings import Settings

BACKLOG = 1024  # connections that wait to be accepted


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
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG) as listening:
        host, port = listening.getsockname()[:2]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=settings.grace_s
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
