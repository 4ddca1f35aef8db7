"""`README.md` of a finetuned adapter: what it is, how good it is, and the lines that load it."""

from apiq_core.finetune.report import FinetuneReport
from apiq_core.markdown import code, plain
from apiq_core.model_card import READERS


def model_card(report: FinetuneReport, *, is_job: bool) -> str:
    """The card; `is_job` says that the base is a quantize job, which has a `model/` of its own."""
    model = "model" if is_job else report.base
    where = (
        f"It belongs to `model/` of {report.base}: download that too, and use them together."
        if is_job
        else f"It belongs to {plain(report.base)}."
    )
    loss, perplexity = report.validation_loss, report.perplexity
    rows, tokens = report.rows, report.tokens
    answers = (
        ""
        if report.exact_match is None
        else f"\n| final numbers that are right | | {100 * report.exact_match:.1f} % |"
    )
    trained = (
        f"Trained on {rows['train']} rows ({tokens['train']} tokens that carry loss), the best of "
        f"{len(report.points)} states by the loss on {rows['validation']} rows that were held "
        f"out. {where}"
    )
    load = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{model}")
model = PeftModel.from_pretrained(model, "adapter")
tokenizer = AutoTokenizer.from_pretrained("{model}")
inputs = tokenizer("The capital of France is", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))"""
    return (
        "\n\n".join(
            [
                f"# An adapter for {plain(report.base)}",
                trained,
                "## Results",
                "On the held-out rows:",
                "| | before | after |\n|---|---:|---:|\n"
                f"| loss, nats per token | {loss.before:.4f} | {loss.after:.4f} |\n"
                f"| perplexity | {perplexity.before:.2f} | {perplexity.after:.2f} |" + answers,
                "`report.html` and `report.json` have every figure and the curves.",
                "## Load it",
                code("sh", f"pip install torch {READERS}"),
                code("python", load),
                "## Licence",
                "Those of the base model and of the data it was trained on hold for it.",
            ]
        )
        + "\n"
    )
