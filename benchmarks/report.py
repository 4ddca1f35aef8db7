"""A table for people, the same figures as JSON for programs."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS_DIR = Path("benchmarks/results")
PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "celery", "torch", "transformers")


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the same keys as a table; None is an empty field."""
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        numeric = any(isinstance(row[name], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console(width=130).print(table)


def write(name: str, figures: Mapping[str, Any]) -> None:
    """`benchmarks/results/NAME.json`."""
    RESULTS_DIR.mkdir(parents=True, exist_ok=True)
    path = RESULTS_DIR / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
    print(f"written: {path}")


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load_average_1m": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
