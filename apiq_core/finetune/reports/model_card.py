"""`README.md` of what was finetuned: what it is, how good it is, and the lines that load it."""

from apiq_core.finetune.config import Method, Train
from apiq_core.finetune.reports.report import FinetuneReport
from apiq_core.reports.html.text import number
from apiq_core.reports.markdown import code, plain
from apiq_core.reports.model_card import HERE, READERS, UNPACK, front_matter

WITHOUT_ADAPTER: tuple[Method, ...] = ("l4q",)  # publishes a model of its own
ONLY: dict[Train, str] = {
    "all": "",
    "attention": " Only layers of attention were trained.",
    "mlp": " Only layers of the MLP were trained.",
}
PLACEHOLDER = "path/to/base"  # where the base is to be put in
BASE_DIR = "base"  # beside the adapter, as `apiq finetune --wait` has it


def model_card(report: FinetuneReport, *, is_job: bool, is_on_hub: bool, is_mixed: bool) -> str:
    """The card; `is_job` says that the base is a quantize job, which has a `model/` of its own,
    `is_on_hub` that it is a model that its name loads, `is_mixed` that its layers have widths of
    their own."""
    is_model = report.config.method in WITHOUT_ADAPTER
    if is_model:
        base = "model"
    elif is_job:
        base = f"{BASE_DIR}/model"
    else:
        base = report.base if is_on_hub else PLACEHOLDER
    loss, perplexity = report.validation_loss, report.perplexity
    answers = (
        ""
        if report.exact_match is None
        else f"\n| final numbers that are right | | {100 * report.exact_match:.1f} % |"
    )
    return (
        "\n\n".join(
            [
                _front_matter(report, is_model=is_model),
                f"# {plain(report.model)} {_width(report)}, finetuned by L4Q"
                if is_model
                else f"# An adapter for {plain(report.model)} {_width(report)}".rstrip(),
                f"{_training(report)} {_place(report, base, is_model=is_model, is_job=is_job)}",
                "## Results",
                "On the held-out rows:",
                "| | before | after |\n|---|---:|---:|\n"
                f"| loss, nats per token | {loss.before:.4f} | {loss.after:.4f} |\n"
                f"| perplexity | {number(perplexity.before)} | {number(perplexity.after)} |"
                + answers,
                "`report.html` and `report.json` have every figure and the curves.",
                "## Load it",
                HERE,
                code("sh", _fetch(report.base if is_job and not is_model else "")),
                code("python", _load(base, is_model=is_model, is_mixed=is_mixed)),
                "## Licence",
                "Those of the base model and of the data it was trained on hold for it.",
            ]
        )
        + "\n"
    )


def _front_matter(report: FinetuneReport, *, is_model: bool) -> str:
    if is_model:
        tags = [report.config.method, "compressed-tensors", f"{_bits(report)}-bit"]
        return front_matter(report.model, "quantized", tags)
    return front_matter(report.model, "adapter", [report.config.method], "peft")


def _width(report: FinetuneReport) -> str:
    return "" if report.bits is None else f"at {_bits(report)} bits"


def _bits(report: FinetuneReport) -> str:
    """The mean width of a code, to two digits where layers differ."""
    assert report.bits is not None
    return f"{report.bits:.2f}".rstrip("0").rstrip(".")


def _training(report: FinetuneReport) -> str:
    rows, tokens = report.rows, report.tokens
    return (
        f"Trained on {rows['train']} rows ({tokens['train']} tokens that carry loss), the best of "
        f"{len(report.points)} states by the loss on {rows['validation']} rows that were held out."
        + ONLY[report.config.train]
    )


def _place(report: FinetuneReport, base: str, *, is_model: bool, is_job: bool) -> str:
    if is_model:
        groups = "whole rows" if report.group_size == -1 else f"groups of {report.group_size}"
        return f"`model/` is whole, in {groups}: it needs neither its base nor an adapter."
    if is_job:
        return (
            f"It belongs to `model/` of {plain(report.base)}: put that into `{BASE_DIR}/` beside "
            "this file, and use them together."
        )
    whose = f"It belongs to {plain(report.model)}"
    if base == PLACEHOLDER:
        return (
            f"{whose}, which was read from a folder and need not be on any hub: put the path of "
            f"your copy in place of `{PLACEHOLDER}` below."
        )
    return f"{whose}."


def _fetch(base: str) -> str:
    """What there has to be before it loads; the service has the `base` that is one of its jobs."""
    lines = [f"pip install torch {READERS}"]
    if base.startswith("job_"):
        lines.append(f"apiq artifacts download {base} 'model/*' --dir {BASE_DIR}")
    return "\n".join(lines)


def _load(base: str, *, is_model: bool, is_mixed: bool) -> str:
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{base}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{base}")',
        "# ask in the words of the rows that it was trained on",
        'inputs = tokenizer("The capital of France is", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))",
    ]
    if not is_model:
        lines.insert(0, "from peft import PeftModel")
        lines.insert(4, 'model = PeftModel.from_pretrained(model, "adapter")')
        if is_mixed:
            lines.insert(4, UNPACK)
    return "\n".join(lines)
