"""Everything that differs between one machine and many: environment variables `APIQ_...`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL

from jobs import addresses

# they are secrets, or hold passwords
SECRET = ("secret_key", "database_url", "broker_url", "artifacts_url")


class Settings(BaseSettings):
    """One set of settings for every process of the service.

    The defaults are the embedded service: everything under one directory. An address that is
    left empty is filled in from `data_dir`.
    """

    model_config = SettingsConfigDict(env_prefix="APIQ_", frozen=True, allow_inf_nan=False)

    data_dir: Path = Field(Path("apiq-data"), description="Records, artifacts, scratch, logs.")
    models_dir: Path = Field(Path(), description="Local models. Default: `<data_dir>/models`.")
    database_url: Annotated[str, AfterValidator(addresses.check_database)] = Field(
        "",
        description="`postgresql://user:password@host/name`, or `sqlite:///file`. "
        "Default: SQLite, `<data_dir>/apiq.db`.",
    )
    broker_url: Annotated[str, AfterValidator(addresses.check_broker)] = Field(
        "",
        description="`redis://host:6379/0`, `amqp://host` or another that Celery knows. "
        "Default: files under `<data_dir>/broker`.",
    )
    artifacts_url: Annotated[str, AfterValidator(addresses.check_artifacts)] = Field(
        "",
        description="`s3://bucket/prefix`, or `file:///directory`. "
        "Default: `file://<data_dir>/artifacts`.",
    )
    s3_public_url: Annotated[str, AfterValidator(addresses.check_public)] = Field(
        "",
        description="The object store's endpoint as clients reach it: downloads are redirected "
        "there. Default: clients do not reach it, and the API passes the bytes on.",
    )

    host: str = Field("127.0.0.1", description="Where the API listens.")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one.")
    max_body_bytes: int = Field(1024**2, gt=0, description="Of a request, uploads apart.")
    max_dataset_bytes: int = Field(1024**3, gt=0, description="Of an uploaded dataset.")
    client_timeout_s: float = Field(
        30.0,
        gt=0,
        description="A request must have arrived by then; an upload may pause as long.",
    )
    hub_timeout_s: float = Field(5.0, gt=0, description="Of one question to the model hub.")
    downloads_bytes: int = Field(
        100 * 10**9,
        ge=0,
        description="Models of the hub that a worker's host keeps between jobs, together; those in "
        "use are never deleted. 0 keeps none.",
    )

    secret_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="With it every call needs an API key, the server may bind to any address, and "
        "jobs may bring a hub token. Keep it: without it keys and tokens are worthless.",
    )
    max_queued_jobs_per_owner: int | None = Field(
        None, ge=1, description="A further one is refused. Default: no limit."
    )
    max_running_jobs_per_owner: int | None = Field(
        None, ge=1, description="A further one waits in the queue. Default: no limit."
    )
    max_dataset_bytes_per_owner: int | None = Field(
        None, ge=1, description="Of all datasets together. Default: no limit."
    )

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="What jobs run on: `auto`, `cpu`, `cuda` or `cuda:1`.",
    )
    devices: str = Field(
        "",
        pattern=r"^((cpu|cuda:\d+)(,(cpu|cuda:\d+))*)?$",
        description="One worker process each, as in `cuda:0,cuda:1`. Default: one, on `device`.",
    )
    lease_ttl_s: float = Field(60.0, gt=0, description="A worker silent this long is lost.")
    heartbeat_interval_s: float = Field(
        15.0, gt=0, description="How often a worker renews its lease; at most half of it."
    )
    cancel_poll_s: float = Field(1.0, gt=0, description="How often a worker looks for a cancel.")
    cancel_grace_s: float = Field(
        10.0, gt=0, description="What a job has to stop by itself before it is killed."
    )
    drain_grace_s: float = Field(
        20.0, gt=0, description="The same, when the worker was told to end (SIGTERM)."
    )
    sweep_interval_s: float = Field(
        5.0,
        gt=0,
        description="How often an idle worker looks for jobs that may run, a worker after those "
        "that nobody looks after, and the API after those that no worker takes up.",
    )
    max_infra_losses: int = Field(
        3, ge=1, description="A job fails when the machines have lost it this often at one block."
    )
    retention_days: float | None = Field(
        None, gt=0, description="Ended jobs are deleted at this age. Default: never."
    )
    retry_backoff_s: float = Field(
        5.0,
        ge=0,
        description="Pause of the job, and of the worker, after the first loss; doubles with each, "
        "up to 5 minutes. A job waits 60 times as long for a hub, a store or a database.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, object]) -> dict[str, object]:
        data_dir = Path(str(values.get("data_dir") or "apiq-data")).absolute()
        models_dir = Path(str(values.get("models_dir") or data_dir / "models")).absolute()
        return values | {
            "data_dir": data_dir,
            "models_dir": models_dir,
            "database_url": values.get("database_url") or _sqlite(data_dir / "apiq.db"),
            "broker_url": values.get("broker_url") or "filesystem://",
            "artifacts_url": values.get("artifacts_url") or (data_dir / "artifacts").as_uri(),
        }

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heartbeat_interval_s * 2 > self.lease_ttl_s:
            raise ValueError(
                f"APIQ_HEARTBEAT_INTERVAL_S is {self.heartbeat_interval_s}; legal: at most half of "
                f"APIQ_LEASE_TTL_S ({self.lease_ttl_s}), so that one late beat loses nothing"
            )
        if self.devices and self.device != "auto":
            raise ValueError(
                f"APIQ_DEVICES is {self.devices!r} and APIQ_DEVICE is {self.device!r}; "
                "legal: one of the two"
            )
        return self

    def environment(self) -> dict[str, str]:
        """The variables that give another process these settings, secrets included."""
        fields = self.model_dump(mode="json", exclude_none=True)
        if self.secret_key is not None:
            fields["secret_key"] = self.secret_key.get_secret_value()
        return {f"APIQ_{name.upper()}": str(value) for name, value in fields.items()}

    @property
    def scratch_dir(self) -> Path:
        """Where attempts work; nothing in it outlives its attempt."""
        return self.data_dir / "scratch"

    @property
    def downloads_dir(self) -> Path:
        """Models of the hub, a directory each; the least recently used are deleted."""
        return self.data_dir / "downloads"

    @property
    def pulse_dir(self) -> Path:
        """Where worker processes show that they are alive: a file each."""
        return self.data_dir / "workers"

    @property
    def broker_dir(self) -> Path:
        """Where the file broker keeps its messages."""
        return self.data_dir / "broker"


def _sqlite(file: Path) -> str:
    """Its URL, in which `?` and `#` of a path mean nothing else."""
    return URL.create("sqlite", database=str(file)).render_as_string()


class SettingsError(ValueError):
    """A setting that is not legal. Says which; a value that holds a secret is not shown."""


def load_settings() -> Settings:
    """The settings of this process, from its environment; raises `SettingsError`."""
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(map(_describe, error.errors()))) from None


def settings_or_exit() -> Settings:
    """The same for the entry point of a process: what is not legal is one line, and exit code 2."""
    try:
        return load_settings()
    except SettingsError as error:
        print(f"error: {error} [illegal_setting]", file=sys.stderr)
        sys.exit(2)


def _describe(error: Mapping[str, Any]) -> str:
    """`APIQ_LEASE_TTL_S is 'soon'; legal: a valid number`."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:  # about several settings: it names them
        return message
    name = str(error["loc"][0])
    if error["type"] == "value_error":  # of `jobs.addresses`, which shows no secret
        return f"APIQ_{name.upper()} {message}"
    if error["type"] == "string_pattern_mismatch":
        legal = Settings.model_fields[name].description
    elif error["type"].endswith("too_short"):
        legal = f"{error['ctx']['min_length']} characters or more"
    else:  # "Input should be a valid number, unable to parse ..."
        legal = message.removeprefix("Input should be ").partition(", ")[0]
    shown = "is not legal" if name in SECRET else f"is {error['input']!r}"
    return f"APIQ_{name.upper()} {shown}; legal: {legal}"
