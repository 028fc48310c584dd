"""What a server can be told; every field is an option of `dist-rec serve` too."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dist_rec.common.strict import ConfigError, Folder, Strict

TOKEN, ADMIN_TOKEN = "DIST_REC_TOKEN", "DIST_REC_ADMIN_TOKEN"  # environment variables
MIB = 2**20


class Settings(Strict):
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all of the machine.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    cache_mb: int = Field(1024, ge=0, description="MiB of memory for states of users.")
    disk: Folder | None = Field(None, min_length=1, description="Folder for states of users that outlive the process.")
    disk_mb: int = Field(10_240, ge=1, description="MiB in that folder.")
    redis: str | None = Field(None, description="In the place of --disk, such as redis://host:6379/0.")
    redis_ttl_s: int | None = Field(None, ge=1, description="Seconds after which Redis drops a state; none: never.")
    max_wait_ms: float = Field(2.0, ge=0, le=10_000, description="How long a batch waits for more after its first.")
    max_batch_requests: int = Field(128, ge=1, description="Requests of a batch.")
    max_batch_candidates: int = Field(16_384, ge=1, description="Candidates of a batch.")
    max_queue: int = Field(512, ge=1, description="Requests that may wait; above, the answer is 429.")
    timeout_ms: int = Field(2_000, ge=1, description="A request that has waited for so long is answered by 503.")
    threads: int = Field(1, ge=1, le=1024, description="Threads of the model.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Of the layers.")
    stale_seconds: int = Field(0, ge=0, description="By how much ages of events may be wrong; 0: exact.")
    max_body_kb: int = Field(8_192, ge=1, description="KiB of a body.")
    body_timeout_s: float = Field(30.0, gt=0, description="Seconds in which a body has to arrive.")
    max_reading_mb: int = Field(256, ge=1, description="MiB of bodies that are read at once; above, the answer is 429.")
    max_requests: int = Field(128, ge=1, description="Requests of a body.")
    max_candidates: int = Field(2_000, ge=1, description="Candidates of a request.")
    max_events: int = Field(20_000, ge=1, description="Events of a sequence of a user.")
    grace_s: int = Field(30, ge=1, description="Seconds for requests in flight when the server is told to stop.")
    token_file: Folder | None = Field(None, description=f"File with the token that clients send; or ${TOKEN}.")
    admin_token_file: Folder | None = Field(
        None, description=f"File with the token for /v1/reload, which is off without one; or ${ADMIN_TOKEN}."
    )

    @model_validator(mode="after")
    def _one_store(self) -> "Settings":
        if self.disk is not None and self.redis is not None:
            raise ValueError("expected disk or redis, got both")
        return self

    @property
    def token(self) -> bytes | None:
        """Raises ConfigError if the file cannot be read or is empty."""
        return _token(self.token_file, TOKEN)

    @property
    def admin_token(self) -> bytes | None:
        return _token(self.admin_token_file, ADMIN_TOKEN)


def _token(file: str | None, variable: str) -> bytes | None:
    if file is None:
        return os.environ[variable].strip().encode() or None if variable in os.environ else None
    try:
        found = Path(file).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{file}: expected a file with a token, got: {error.strerror}") from None
    if not found:
        raise ConfigError(f"{file}: expected a file with a token, got an empty one")
    return found
