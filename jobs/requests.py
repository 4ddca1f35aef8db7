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

from apiq_core.config import (
    ADAPTER_NEEDED,
    LEGAL_MODEL_ID,
    MODEL_ID,
    Bits,
    BitsPerWeight,
    QuantizeConfig,
    QuantizeOptions,
    is_model_id,
)
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
WIDTH = ("bits", "bits_per_weight")  # the fields of which a quantize job has one


HOW_TO_IMPORT = "`apiq models import SOURCE --name ID` brings a model into the directory"


def _check_model_id(text: str) -> str:
    if not is_model_id(text):
        raise ValueError(f"not a model id; legal: {LEGAL_MODEL_ID}{_of_a_path(text)}")
    return text


def _of_a_path(text: str) -> str:
    """What to do with a model that lies somewhere on the disk."""
    return f". {HOW_TO_IMPORT} of models" if text.startswith(("/", ".", "~")) else ""


def _check_base(text: str) -> str:
    if JOB_ID.fullmatch(text) is None and not is_model_id(text):
        legal = f"`job_...`, or a model id: {LEGAL_MODEL_ID}{_of_a_path(text)}"
        raise ValueError(f"not a base; legal: {legal}")
    if JOB_ID.fullmatch(text) is None and re.fullmatch(r"job_[^/]*", text):
        raise ValueError("not the id of a job; legal: all of the id, as `GET /jobs` has it")
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
    Field(json_schema_extra={"pattern": f"^{HUB_TOKEN.pattern}$"}),
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
        description="Fail the job if no worker has taken it up after so many seconds. Default: "
        "never.",
    )
    max_runtime_s: int | None = Field(
        None,
        ge=1,
        le=MAX_LIMIT_S,
        description="Fail the job if it has not ended so many seconds after its start. Default: "
        "never.",
    )
    hub_token: HubToken | None = Field(
        None,
        description="For a gated model: a token of the hub. Never shown again, encrypted at rest, "
        "wiped when the job ends. Default: the server's own, if it has one.",
    )

    # what the input of a job says beside its request: to find the job by, and to check it by
    PINNED: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_input(cls, job_input: Mapping[str, Any], **fields: Any) -> Self:
        """The request that a job's `input` came from; `fields` are those of the job itself."""
        asked = {name: value for name, value in job_input.items() if name not in cls.PINNED}
        return cls.model_validate(asked | fields)

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

    # of the model, for finetune jobs to be checked by
    PINNED = ("context_length", "narrowest_channels", "has_chat_template")

    def config(self) -> QuantizeConfig:
        """The part that the core understands."""
        return QuantizeConfig.model_validate(
            self.model_dump(include=set(QuantizeConfig.model_fields))
        )

    def to_input(self) -> dict[str, Any]:
        """As `Job.input` holds it, but for what is `PINNED`; `JobFields` are fields of the job
        itself, or secret."""
        config = self.config().model_dump(mode="json")
        return {
            "type": self.type,
            "model": self.model,
            "revision": self.revision,
        } | config


class FinetuneRequest(FinetuneConfig, JobFields):
    """A model to finetune, and on what. `type`, `base` and `dataset` suffice.

    With `bits` or `bits_per_weight` it asks for two jobs: one that quantizes the model `base`, and
    one that waits for it and trains on it. L4Q alone quantizes while it trains.
    """

    type: Literal["finetune"] = Field(description="What kind of job this is.")
    base: Base = Field(
        description="What is trained: a quantize job (`job_...`), whose adapter is trained around "
        "its packed integers once it has succeeded, or a model id. A model is quantized first if "
        "`bits` or `bits_per_weight` says so; else its weights stay as they are.",
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
    bits: Bits | None = Field(
        None,
        description="Of a base that is a model: quantize it first, to 2, 3, 4 or 8 bits. This "
        "makes two jobs; the answer is the one that trains, its `waits_for` names the other. "
        "Method `l4q` needs one: it trains the model's own weights into so many bits.",
    )
    bits_per_weight: BitsPerWeight | None = Field(
        None, description="Instead of `bits`: a budget, as for quantizing."
    )
    quantize: QuantizeOptions | None = Field(
        None,
        description="With `bits` or `bits_per_weight`: the other fields of a quantize job, as in "
        '`{"method": "loftq"}`.',
        examples=[{"method": "loftq"}],
    )

    PINNED = ("model", "has_chat_template", "base_manifest_sha256", "dataset_kind")

    # checks of fields, not of the model, so that an error names its field
    @field_validator("bits", "bits_per_weight")
    @classmethod
    def _of_a_model(cls, width: float | None, info: ValidationInfo) -> float | None:
        if width is not None and JOB_ID.fullmatch(info.data.get("base", "")):
            raise ValueError("base is a job; legal only where it is the id of a model")
        if width is not None and info.field_name != "bits" and info.data.get("bits"):
            raise ValueError(f"bits is given too, {info.data['bits']}; legal: one of them")
        if width is not None and info.field_name != "bits":
            cls._check_quantizes_first(info)
            if info.data.get("method") == "qa-lora":
                raise ValueError(
                    "a budget has ranks, and method qa-lora needs a base without adapter; legal: "
                    "bits"
                )
        return width

    @field_validator("quantize")
    @classmethod
    def _of_a_width(
        cls, options: QuantizeOptions | None, info: ValidationInfo
    ) -> QuantizeOptions | None:
        width = {name: info.data.get(name, 0) for name in WIDTH}  # 0 where it is wrong itself
        if options is None or 0 in width.values():
            return options
        if not any(width.values()):
            raise ValueError("legal only with bits or bits_per_weight, which quantize the base")
        cls._check_quantizes_first(info)
        QuantizeConfig.model_validate(width | options.model_dump(exclude_unset=True))
        has_adapter = options.rank or options.adapter != "lora" or options.method in ADAPTER_NEEDED
        if info.data.get("method") == "qa-lora" and has_adapter:
            raise ValueError(
                "method qa-lora needs a base without adapter; legal: rank 0, adapter lora, and a "
                f"method that is none of {', '.join(sorted(ADAPTER_NEEDED))}"
            )
        return options

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

    @staticmethod
    def _check_quantizes_first(info: ValidationInfo) -> None:
        if info.data.get("method") == "l4q":
            raise ValueError(
                "method l4q trains the model's own weights; legal: bits alone, or a base that is a "
                "quantize job"
            )

    @property
    def base_job(self) -> str | None:
        """The id of the quantize job that is trained on; None for a model."""
        return self.base if JOB_ID.fullmatch(self.base) else None

    def base_request(self) -> QuantizeRequest | None:
        """What makes the base, if a model is to be quantized first. It takes the hub token.

        QA-LoRA trains no base with an adapter, so none is fitted for it.
        """
        if self.method == "l4q" or (self.bits is None and self.bits_per_weight is None):
            return None
        shared = {name: getattr(self, name) for name in (*JobFields.model_fields, *WIDTH)}
        place = {"model": self.base, "revision": self.revision}
        options = dict(self.quantize or ())
        if self.method == "qa-lora":
            options["rank"] = 0
        return QuantizeRequest.model_validate(place | shared | options)

    def config(self) -> FinetuneConfig:
        """The part that the core understands."""
        return FinetuneConfig.model_validate(
            self.model_dump(include=set(FinetuneConfig.model_fields))
        )

    def to_input(self) -> dict[str, Any]:
        """As `Job.input` holds it, but for what is `PINNED`."""
        place = self.model_dump(include={"type", "base", "revision", "dataset", "validation"})
        if self.method == "l4q":
            place["bits"] = self.bits
        return place | self.config().model_dump(mode="json")


JobRequest = QuantizeRequest | FinetuneRequest


def request_of(job_input: Mapping[str, Any], **fields: Any) -> JobRequest:
    """The request that a job's `input` came from; `fields` are those of the job itself."""
    kind = FinetuneRequest if job_input["type"] == "finetune" else QuantizeRequest
    return kind.from_input(job_input, **fields)
