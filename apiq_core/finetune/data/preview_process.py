"""A preview in a process of its own.

    python -m apiq_core.finetune.data.preview_process MODEL_DIR rows|text MAX_LENGTH < DATA

prints a `Preview` as JSON, or {"error": ...} with exit code 2. Whoever asks need not load
transformers; and a tokenizer or a chat template that never ends is ended by the limits here.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from apiq_core.errors import UserError
from apiq_core.process_limits import limit_process

CPU_S = 60
MEMORY_BYTES = 4 * 2**30


def main(model_dir: Path, kind: str, max_length: int) -> int:
    limit_process(cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
    # as if it were not installed: transformers would load it for seconds, for no tokenizer's sake
    sys.modules["torch"] = None  # type: ignore[assignment]
    from apiq_core.finetune.data.preview import preview_rows, preview_text
    from apiq_core.tokenizer import load_tokenizer

    content = sys.stdin.buffer.read()
    try:
        preview = {"rows": preview_rows, "text": preview_text}[kind]
        found = preview(content, load_tokenizer(model_dir), max_length)
    except UserError as error:
        print(json.dumps({"error": error.to_dict()}))
        return 2
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
