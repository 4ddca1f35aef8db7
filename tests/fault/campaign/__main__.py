"""`python -m tests.fault.campaign`: every fault at every point on both columns, as a table."""

import argparse
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.columns import EMBEDDED, PRODUCTION
from tests.fault.campaign.run import MAX_PAUSE_S, cases, is_possible, run_case
from tests.fault.campaign.stage import open_stage
from tests.fault.campaign.up import NAME, POINTS, kill_up
from tests.fault.history import KINDS, Flaw

HEAD = ("fault", "column", "points", "injected", *KINDS)


@dataclass
class Line:
    points: Counter[str] = field(default_factory=Counter)
    flaws: list[Flaw] = field(default_factory=list)


class Table:
    def __init__(self) -> None:
        self.lines: dict[tuple[str, str], Line] = {}

    def add(self, fault: str, column: str, point: str, flaws: list[Flaw]) -> None:
        line = self.lines.setdefault((fault, column), Line())
        line.points[point] += 1
        line.flaws += flaws
        print(f"{time.strftime('%H:%M:%S')} {column}: {fault}, {point}", flush=True)
        for flaw in flaws:
            print(f"    {flaw.kind}: {flaw.job_id} {flaw.what}", flush=True)

    def __str__(self) -> str:
        rows: list[tuple[object, ...]] = [HEAD, tuple("---" for _ in HEAD)]
        total: Counter[str] = Counter()
        for (fault, column), line in sorted(self.lines.items()):
            found = Counter(flaw.kind for flaw in line.flaws)
            counts = [found[kind] for kind in KINDS]
            total.update(found, injected=line.points.total())
            rows.append((fault, column, len(line.points), line.points.total(), *counts))
        rows.append(("all", "", "", total["injected"], *(total[kind] for kind in KINDS)))
        return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)

    @property
    def is_clean(self) -> bool:
        return not any(line.flaws for line in self.lines.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fault.campaign", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="all cases, so often")
    parser.add_argument("--seed", type=int, default=0, help="of the order and of the pauses")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no case after that")
    parser.add_argument("--columns", nargs="+", default=[EMBEDDED, PRODUCTION])
    parser.add_argument("--match", default="", help="only cases whose name has this in it")
    parser.add_argument("--out", type=Path, help="append the table to this file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # leaves every `with`
    table = Table()
    left_out: list[str] = []
    began = time.monotonic()
    for place, column in enumerate(arguments.columns, 1):
        end = began + 60 * arguments.minutes * place / len(arguments.columns)
        for number in range(arguments.rounds):
            seed = arguments.seed + number
            pauses = random.Random(seed)
            with open_stage(column) as stage:
                for case in cases(column, seed):
                    if arguments.match not in str(case):
                        continue
                    if time.monotonic() > end or not is_possible(stage, case):
                        left_out.append(f"{column}: {case}")
                        continue
                    flaws = run_case(stage, case, pauses.uniform(0, MAX_PAUSE_S))
                    table.add(case.fault.name, column, case.point, flaws)
            for point in POINTS if column == EMBEDDED and arguments.match in NAME else ():
                if time.monotonic() < end:
                    table.add(NAME, column, point, kill_up(point))
                else:
                    left_out.append(f"{column}: {NAME}, {point}")
    text = f"{table}\n"
    if left_out:
        text += f"\nNot run ({len(left_out)}): {'; '.join(left_out)}\n"
    print(text)
    if arguments.out is not None:
        with arguments.out.open("a") as file:
            file.write(text)
    return 0 if table.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
