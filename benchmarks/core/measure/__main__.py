"""`python -m benchmarks.core.measure NAME WORK_DIR`: request.json there becomes figures.json."""

import json
import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    name, work_dir = sys.argv[1], Path(sys.argv[2])
    request = json.loads((work_dir / "request.json").read_text())
    inputs = {key: Path(path) for key, path in request["inputs"].items()}
    measure = import_module(f"benchmarks.core.measure.{name}")
    figures = measure.figures(request["config"], inputs, work_dir)
    (work_dir / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
