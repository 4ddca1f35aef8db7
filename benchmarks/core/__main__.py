"""`python -m benchmarks.core [part ...] [options]`: all parts, or those that are named."""

import argparse
from importlib import import_module
from pathlib import Path

QUANTIZES = ("quality", "speed", "memory", "error", "calibration")
FINETUNES = ("finetune", "widths", "positions", "ranks", "dora", "l4q", "step", "lengths")
PARTS = QUANTIZES + FINETUNES


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.core", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--wikitext", type=Path, help="WikiText-2's validation text; needed")
    parser.add_argument("--gsm8k", type=Path, help="GSM8K as JSON lines")
    parser.add_argument("--model", type=Path, help="a checkpoint; default: SmolLM2-135M-Instruct")
    parser.add_argument("--blocks", type=int, help="first so many only; speed: 6, lengths: 8")
    parser.add_argument("--samples", type=int, default=32, help="calibration windows; default 32")
    parser.add_argument(
        "--bits", type=numbers, default=(2, 3, 4), help="for those with more than one: 2,3"
    )
    parser.add_argument("--only", type=names, default=(), help="METHOD[:RECIPE],...")
    parser.add_argument("--rounds", type=int, default=2, help="speed, step: how often; default 2")
    parser.add_argument("--llama", action="store_true", help="memory: also a Llama-2-7B block")
    parser.add_argument("--minutes", type=float, help="begin no measurement after so many")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"part is {part!r}; legal: {', '.join(PARTS)}")
    if options.wikitext is None or not options.wikitext.is_file():
        parser.error("--wikitext needs the file with WikiText-2's validation text")
    for part in options.parts or PARTS:
        import_module(f"benchmarks.core.{part}").main(options)


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
