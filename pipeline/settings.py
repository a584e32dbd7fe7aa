"""Settings: environment variables `CALLSTREAM_…`, read once, checked at the start."""

import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pipeline.models.execution import Execution, Provider
from pipeline.settings_checks import MAX_PORT, fault_of

PREFIX = "CALLSTREAM_"
_SERVERS = r"^[^\s,]+:\d{1,5}(,[^\s,]+:\d{1,5})*$"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
SECRETS = frozenset({"kafka_password"})  # never shown


def default_cache_dir() -> str:
    """The user's cache folder (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "callstream")


class SettingsError(Exception):
    """A setting has a bad value; the message names it. The program cannot start."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting. The environment variable is the field's name in capitals behind `CALLSTREAM_`."""

    broker: Annotated[
        str,
        Meta(pattern=_SERVERS, description="Kafka bootstrap servers, host:port[,host:port…]"),
    ] = "localhost:9092"
    kafka_security: Annotated[
        str,
        Meta(
            pattern="^(SASL_)?(PLAINTEXT|SSL)$", description="PLAINTEXT, SSL (TLS), SASL_PLAINTEXT or SASL_SSL (TLS and user)"
        ),
    ] = "PLAINTEXT"
    kafka_mechanism: Annotated[
        str,
        Meta(pattern="^(PLAIN|SCRAM-SHA-(256|512))$", description="how a user signs in: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
    ] = "SCRAM-SHA-512"
    kafka_username: Annotated[str, Meta(description="user at Kafka")] = ""
    kafka_password: Annotated[str, Meta(description="the user's password; or name a file that holds it")] = ""
    kafka_password_file: Annotated[str, Meta(description="file with the user's password, so that no environment holds it")] = ""
    kafka_ca_file: Annotated[str, Meta(description="PEM file of the authorities to trust for TLS; empty: the system's")] = ""
    kafka_cert_file: Annotated[str, Meta(description="PEM file of our own certificate and its chain, for mutual TLS")] = ""
    kafka_key_file: Annotated[str, Meta(description="PEM file of that certificate's key, without a passphrase")] = ""
    topic_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,100}$", description="put before every topic name")] = ""
    partitions: Annotated[
        int, Meta(ge=1, le=10_000, description="partitions of each topic that `callstream topics` creates")
    ] = 8
    replication_factor: Annotated[int, Meta(ge=1, le=32, description="copies of each partition")] = 1
    cache_dir: Annotated[str, Meta(min_length=1, description="folder for models and the embedded broker's jars")] = (
        msgspec.field(default_factory=default_cache_dir)
    )
    data_dir: Annotated[
        str, Meta(min_length=1, description="folder for the query service's view, for uploads under way, and for blobs")
    ] = "callstream-data"
    blob_store: Annotated[
        str,
        Meta(
            pattern=r"^(s3://[^/].*|(?!.*://).*)$",
            description="what is larger than a record: a folder that workers and query services share, or s3://bucket/prefix",
        ),
    ] = ""
    blob_quota_bytes: Annotated[int, Meta(ge=1, description="uploads are refused when the blob store would hold more")] = (
        20_000_000_000
    )
    blob_grace_s: Annotated[
        float, Meta(ge=1, le=86_400, description="how long a blob stays that no task needs (any more, or yet)")
    ] = 600.0
    idle_timeout_s: Annotated[float, Meta(gt=0, le=86_400, description="a call that sends nothing for so long is ended")] = 60.0
    reorder_window_s: Annotated[float, Meta(ge=0, le=60, description="audio to wait through for a chunk out of order")] = 5.0
    max_gap_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="longest stretch of lost audio to fill with silence, if longer than a chunk may be"),
    ] = 60.0
    max_call_s: Annotated[float, Meta(gt=0, le=604_800, description="longest call")] = 43_200.0
    in_flight: Annotated[int, Meta(ge=1, le=1024, description="records in work at once in each agent")] = 32
    inference_threads: Annotated[int, Meta(ge=1, le=256, description="threads for model inference in each worker")] = 2
    inference_provider: Annotated[
        str, Meta(pattern="^(cpu|cuda)$", description="where extraction's models run: cpu, or cuda with onnxruntime-gpu")
    ] = "cpu"
    inference_batch: Annotated[
        int, Meta(ge=1, le=256, description="utterances that a model of extraction hears in one run, of any calls; for GPUs")
    ] = 1
    inference_wait_ms: Annotated[
        float,
        Meta(ge=0, le=1000, description="how long an utterance waits for others to fill a batch, in each model"),
    ] = 10.0
    grace_period_s: Annotated[float, Meta(gt=0, le=3600, description="time to finish work in flight after SIGTERM")] = 30.0
    session_timeout_s: Annotated[
        float, Meta(ge=6, le=300, description="silence after which Kafka gives a worker's partitions to others")
    ] = 20.0
    dead_letter_limit: Annotated[
        int, Meta(ge=0, description="calls in a row that may end in dead-letters before a worker stops; 0 for any number")
    ] = 1000
    dead_letter_ratio: Annotated[
        float, Meta(gt=0, le=1, description="share of the last records that may end in dead-letters before it stops; 1 for all")
    ] = 0.5
    dead_letter_window: Annotated[
        int, Meta(ge=1, le=1_000_000, description="how many records that share is of, for each agent")
    ] = 10_000
    dead_letter_hold: Annotated[
        bool,
        Meta(
            description="whether a worker that buried too much stays, doing nothing, until it is asked to end: for containers, "
            "which are started again whatever their exit code says"
        ),
    ] = False
    language_model: Annotated[str, Meta(pattern="^(tiny|base|small)$", description="whisper size: tiny, base or small")] = (
        "base"
    )
    language_floor: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="a channel's language is unknown (no scores) when none is as probable; 0: never",
        ),
    ] = 0.3
    language_sure: Annotated[
        float,
        Meta(ge=0, le=1, description="probability of each channel's language at which a task is done early; 0: never"),
    ] = 0.0
    language_sure_s: Annotated[float, Meta(ge=0, description="speech that a channel needs for that")] = 10.0
    language_enough: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="probability of a channel's language at which it is not identified further, LANGUAGE_SURE where that "
            "is higher; 0: never",
        ),
    ] = 0.95
    language_enough_s: Annotated[
        float, Meta(ge=0, description="speech that a channel needs for that, LANGUAGE_SURE_S where that is longer")
    ] = 10.0
    voiceprint_enough_s: Annotated[
        float, Meta(ge=0, description="speech of a channel after which its voiceprint takes no more in; 0: never")
    ] = 30.0
    voice_enough_s: Annotated[
        float,
        Meta(
            ge=0,
            description="speech of a channel after which the voice embedding (GE2E) in its voiceprint takes no more in; "
            "0: never",
        ),
    ] = 8.0
    drafts: Annotated[
        bool,
        Meta(
            description="whether utterances of live calls that pause are extracted before it is known that they have ended, "
            "when there is nothing else to do"
        ),
    ] = True
    models_manifest: Annotated[
        str, Meta(description="a manifest file of your own models; empty for the one that is built in")
    ] = ""
    calibration_profile: Annotated[
        str, Meta(description="file that `callstream calibrate` made of your recordings; empty for the built-in calibration")
    ] = ""
    host: Annotated[str, Meta(min_length=1, description="address of the query service")] = "127.0.0.1"
    host_names: Annotated[
        str,
        Meta(
            description="names, separated by commas, under which a query service without keys may be asked besides this "
            "machine's own, such as a proxy's"
        ),
    ] = ""
    port: Annotated[int, Meta(ge=0, le=MAX_PORT, description="port of the query service; 0 takes a free one")] = 8080
    worker_host: Annotated[
        str, Meta(min_length=1, description="address of a worker's /health, /ready and /metrics, which ask for no key")
    ] = "127.0.0.1"
    worker_port: Annotated[
        int, Meta(ge=0, le=MAX_PORT, description="port of a worker's /health, /ready and /metrics; 0 for none")
    ] = 0
    task_ttl_s: Annotated[float, Meta(gt=0, le=315_576_000, description="how long the query service remembers a task")] = (
        604_800.0
    )
    rate_limit: Annotated[int, Meta(ge=0, description="HTTP requests per rate window and client; 0 for no limit")] = 0
    rate_window_s: Annotated[int, Meta(ge=1, le=86_400, description="length of the rate window")] = 1
    max_body_bytes: Annotated[int, Meta(ge=1, description="largest JSON body that POST takes")] = 83_886_080
    max_media_bytes: Annotated[int, Meta(ge=1, description="largest media file that POST takes")] = 524_288_000
    api_keys_file: Annotated[
        str, Meta(description="TOML file of the API keys (`callstream keys new NAME`); without keys only this machine may ask")
    ] = ""
    api_keys: Annotated[str, Meta(description="API keys without a file: name:sha256[,name:sha256…]")] = ""
    key_failure_limit: Annotated[
        int, Meta(ge=0, description="refused API keys per minute and address before it is sent away; 0 for no limit")
    ] = 60
    concurrency: Annotated[
        int,
        Meta(ge=0, description="HTTP requests at once per client, waits included; 0: 64 for each API key, without keys any"),
    ] = 0
    open_tasks: Annotated[
        int, Meta(ge=0, description="tasks started by POST that may be unfinished at once; 0 for no limit")
    ] = 0
    head_timeout_s: Annotated[float, Meta(gt=0, le=3600, description="time for the head of an HTTP request to come")] = 10.0
    body_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="longest pause in a request's body; after so long it comes at 1 kB/s or more")
    ] = 20.0
    tls_cert_file: Annotated[str, Meta(description="PEM file of the query service's certificate and its chain, for HTTPS")] = ""
    tls_key_file: Annotated[str, Meta(description="PEM file of that certificate's key, without a passphrase")] = ""
    log_level: Annotated[str, Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR")] = (
        "WARNING"
    )

    def __repr__(self) -> str:
        """Without secrets, so that none gets into a log."""
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """As `__repr__`, for whoever prints it with rich."""
        values = msgspec.structs.asdict(self)
        return [(name, "***" if name in SECRETS and value else value) for name, value in values.items()]

    @property
    def manifest_path(self) -> Path | None:
        """The manifest of the user's own models, None for the built-in one."""
        return Path(self.models_manifest) if self.models_manifest else None

    @property
    def execution(self) -> Execution:
        """How extraction's models run."""
        return Execution(Provider(self.inference_provider), self.inference_batch, self.inference_wait_ms / 1000)

    def topic(self, name: str) -> str:
        """A topic's name on the broker."""
        return self.topic_prefix + name


def _field_types() -> dict[str, object]:
    return typing.get_type_hints(Settings, include_extras=True)


def describe() -> list[tuple[str, str, str]]:
    """Every setting as (environment variable, default, meaning)."""
    defaults = Settings()
    rows = []
    for name, hint in _field_types().items():
        meta = next(m for m in typing.get_args(hint) if isinstance(m, Meta))
        default = getattr(defaults, name)
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        rows.append((PREFIX + name.upper(), shown, meta.description or ""))
    return rows


def load(environment: Mapping[str, str] = types.MappingProxyType(os.environ)) -> Settings:
    """Read the settings from the environment. Raises SettingsError with one line that names the variable."""
    values = {}
    for name, hint in _field_types().items():
        text = environment.get(PREFIX + name.upper())
        if text is None:
            continue
        shown = "" if name in SECRETS else f"={text!r}"
        if _CONTROL.search(text):  # a newline at the end, which patterns let pass
            raise SettingsError(f"{PREFIX}{name.upper()}{shown}: has control characters")
        try:
            values[name] = msgspec.convert(text, hint, strict=False)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            raise SettingsError(f"{PREFIX}{name.upper()}{shown}: {error}") from None
    settings = Settings(**values)
    if (fault := fault_of(settings)) is not None:
        raise SettingsError(PREFIX + fault)
    return settings
