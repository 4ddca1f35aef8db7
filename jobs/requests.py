"""What a client asks for: the body of POST /jobs, and `input` of the job once it is resolved.

Pydantic only, so that the face and the workers read the same model.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    JsonValue,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from apiq_core.config import LEGAL_MODEL_ID, MODEL_ID, QuantizeConfig, is_model_id
from apiq_core.finetune.config import FinetuneConfig

JOB_ID = re.compile(r"job_[0-9a-f-]{32,36}")
DATASET_ID = re.compile(r"ds_[0-9a-f-]{32,36}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,199}")
# what an Authorization header takes; a shorter one could not be blanked out of a log
HUB_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,500}")
LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
LEGAL_LABEL_KEY = (
    "1 to 63 of ASCII letters, digits, `_`, `.` and `-`, starting with a letter or digit"
)
LABEL_VALUE_CHARACTERS = 255
LABEL_COUNT = 32
METADATA_BYTES = 16 * 1024
MAX_LIMIT_S = 366 * 24 * 3600


def _check_model_id(text: str) -> str:
    if not is_model_id(text):
        raise ValueError(f"not a model id; legal: {LEGAL_MODEL_ID}")
    return text


def _check_base(text: str) -> str:
    if JOB_ID.fullmatch(text) is None and not is_model_id(text):
        raise ValueError(f"not a base; legal: `job_...`, or a model id: {LEGAL_MODEL_ID}")
    return text


def _check_revision(text: str) -> str:
    if REVISION.fullmatch(text) is None or ".." in text:
        raise ValueError("not a revision; legal: a branch, a tag or a commit of the hub")
    return text


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > LABEL_COUNT:
        raise ValueError(f"{len(labels)} labels; legal: at most {LABEL_COUNT}")
    for key, value in labels.items():
        if LABEL_KEY.fullmatch(key) is None:
            raise ValueError(f"label key {key[:80]!r}; legal: {LEGAL_LABEL_KEY}")
        if len(value) > LABEL_VALUE_CHARACTERS or not _is_storable(value):
            raise ValueError(
                f"value of label {key!r}; legal: at most {LABEL_VALUE_CHARACTERS} Unicode "
                "characters without U+0000"
            )
    return labels


def _check_metadata(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError("not plain JSON; legal: no NaN, no Infinity, no deep nesting") from None
    # U+0000 is spelled \u0000 in the dump, and so is the six characters' text, with one more \
    if not _is_storable(text) or re.search(r"(?<!\\)(\\\\)*\\u0000", text):
        raise ValueError("characters that cannot be stored; legal: Unicode without U+0000")
    if len(text.encode()) > METADATA_BYTES:
        raise ValueError(f"{len(text.encode())} bytes of JSON; legal: at most {METADATA_BYTES}")
    return metadata


def _is_storable(text: str) -> bool:
    """JSON can spell half of a surrogate pair and U+0000; databases take neither."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def _check_hub_token(token: SecretStr) -> SecretStr:
    if HUB_TOKEN.fullmatch(token.get_secret_value()) is None:
        raise ValueError("no token; legal: 8 to 500 of ASCII letters, digits and `-._~+/=`")
    return token


Revision = Annotated[str, AfterValidator(_check_revision)]
Base = Annotated[str, AfterValidator(_check_base)]

HubToken = Annotated[
    SecretStr,
    AfterValidator(_check_hub_token),
    Field(
        json_schema_extra={"pattern": f"^{HUB_TOKEN.pattern}$"},
        description="For a gated model: a token of the hub. Never shown again, encrypted at rest, "
        "wiped when the job ends.",
    ),
]


class JobFields(BaseModel):
    """What any job may be asked for with, whatever it does."""

    labels: Annotated[dict[str, str], AfterValidator(_check_labels)] = Field(
        default_factory=dict,
        description=f"Up to {LABEL_COUNT} short strings to find the job by: `?label.KEY=VALUE`.",
        examples=[{"team": "search"}],
    )
    metadata: Annotated[dict[str, JsonValue], AfterValidator(_check_metadata)] = Field(
        default_factory=dict,
        description=f"Any JSON object of up to {METADATA_BYTES // 1024} KiB; kept, never read.",
    )
    priority: int = Field(
        0, ge=-100, le=100, description="Of two waiting jobs the higher one runs first."
    )
    device_class: Literal["any", "cpu", "cuda"] = Field(
        "any", description="Which workers may run it."
    )
    max_pending_s: int | None = Field(
        None,
        ge=1,
        le=MAX_LIMIT_S,
        description="Fail the job if no worker has taken it up after so many seconds.",
    )
    max_runtime_s: int | None = Field(
        None,
        ge=1,
        le=MAX_LIMIT_S,
        description="Fail the job if it has not ended so many seconds after its start.",
    )
    hub_token: HubToken | None = None

    def body_sha256(self) -> str:
        """The same for requests that ask for the same, however they spell it."""
        plain = self.model_dump(mode="json", exclude={"hub_token"})
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


class QuantizeRequest(QuantizeConfig, JobFields):
    """A model to quantize, and how. `model` and one of `bits`, `bits_per_weight` suffice."""

    type: Literal["quantize"] = Field("quantize", description="What kind of job this is.")
    model: Annotated[str, AfterValidator(_check_model_id)] = Field(
        description="The model: `name` or `org/name`. Looked up in the server's models directory "
        "first, then on the hub.",
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct"],
        json_schema_extra={"pattern": f"^{MODEL_ID.pattern}$"},
    )
    revision: Revision | None = Field(
        None,
        description="Branch, tag or commit of the hub. Default: its main branch; the commit it "
        "points to now is what is used. A model of the models directory has a revision "
        "`local:...`, a fingerprint of its content.",
    )

    def config(self) -> QuantizeConfig:
        """The part that the core understands."""
        return QuantizeConfig.model_validate(
            self.model_dump(include=set(QuantizeConfig.model_fields))
        )

    def to_input(self) -> dict[str, Any]:
        """As `Job.input` holds it; `JobFields` are fields of the job itself, or secret."""
        config = self.config().model_dump(mode="json")
        return {
            "type": self.type,
            "model": self.model,
            "revision": self.revision,
        } | config


class FinetuneRequest(FinetuneConfig, JobFields):
    """A model to finetune, and on what. `type`, `base` and `dataset` suffice."""

    type: Literal["finetune"] = Field(description="What kind of job this is.")
    base: Base = Field(
        description="What is trained: a quantize job that has succeeded (`job_...`), whose adapter "
        "is trained around its packed integers, or a model id, whose weights stay as they are.",
        examples=["job_019ab6f2-6c1d-7f04-8a53-c2f1d09e7b44"],
    )
    revision: Revision | None = Field(
        None, description="Of a base that is a model: branch, tag or commit. As for quantizing."
    )
    dataset: str = Field(
        pattern=f"^{DATASET_ID.pattern}$",
        description="The rows to train on: `ds_...`, an uploaded dataset.",
        examples=["ds_019ab6f2-7a4e-7c31-9d5e-0f3b8a6c2d11"],
    )
    validation: str | None = Field(
        None,
        pattern=f"^{DATASET_ID.pattern}$",
        description="The rows that are held out: `ds_...`, another uploaded dataset of the same "
        "kind. Default: a share of `dataset`, `validation_fraction`.",
    )

    # what `to_input` adds once the base is known: to find the job by, and to check it by
    PINNED: ClassVar = ("model", "base_manifest_sha256", "dataset_kind")

    @classmethod
    def from_input(cls, job_input: Mapping[str, Any], **fields: Any) -> Self:
        """The request that a job's `input` came from; `fields` are those of the job itself."""
        asked = {name: value for name, value in job_input.items() if name not in cls.PINNED}
        return cls.model_validate(asked | fields)

    # a check of a field, not of the model, so that the error names it
    @field_validator("validation")
    @classmethod
    def _one_held_out(cls, validation: str | None, info: ValidationInfo) -> str | None:
        fraction = info.data.get("validation_fraction")  # absent where it is wrong itself
        if validation is not None and fraction is not None:
            raise ValueError(f"validation_fraction is given too, {fraction}; legal: one of them")
        if validation is not None and validation == info.data.get("dataset"):
            raise ValueError("that is dataset itself; legal: another dataset")
        return validation

    @property
    def base_job(self) -> str | None:
        """The id of the quantize job that is trained on; None for a model."""
        return self.base if JOB_ID.fullmatch(self.base) else None

    def config(self) -> FinetuneConfig:
        """The part that the core understands."""
        return FinetuneConfig.model_validate(
            self.model_dump(include=set(FinetuneConfig.model_fields))
        )

    def to_input(self) -> dict[str, Any]:
        """As `Job.input` holds it, but for what is `PINNED`."""
        place = self.model_dump(include={"type", "base", "revision", "dataset", "validation"})
        return place | self.config().model_dump(mode="json")


JobRequest = QuantizeRequest | FinetuneRequest


def request_of(job_input: Mapping[str, Any], **fields: Any) -> JobRequest:
    """The request that a job's `input` came from; `fields` are those of the job itself."""
    if job_input["type"] == "finetune":
        return FinetuneRequest.from_input(job_input, **fields)
    return QuantizeRequest.model_validate(dict(job_input) | fields)
