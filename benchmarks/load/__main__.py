"""`python -m benchmarks.load [part ...]`: all parts, or those that are named."""

import argparse
from importlib import import_module

PARTS = ("api", "streams", "queue", "claim", "latency", "transfer")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    chosen = parser.parse_args().parts or PARTS
    for part in chosen:
        if part not in PARTS:
            parser.error(f"part is {part!r}; legal: {', '.join(PARTS)}")
    for part in chosen:
        import_module(f"benchmarks.load.{part}").main()


if __name__ == "__main__":
    main()
