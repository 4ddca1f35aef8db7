"""A parquet file as lines of JSON.

    python -m jobs.datasets.parquet_process FILE

prints an object a row, of the columns that JSON can say: no images, no dates. What goes wrong is
the last line of stderr, with exit code 2.
"""

import json
import sys

import pyarrow
from pyarrow import parquet, types

from apiq_core.process_limits import limit_process

CPU_S = 600
MEMORY_BYTES = 4 * 2**30
BATCH_ROWS = 256


def main(path: str) -> int:
    limit_process(cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
    try:
        with parquet.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if is_json(field.type)]
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    line = json.dumps(row, ensure_ascii=False) + "\n"
                    sys.stdout.buffer.write(line.encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # nobody reads on
        return 1
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        print(str(error) or "it needs too much memory", file=sys.stderr)
        return 2
    return 0


def is_json(kind: pyarrow.DataType) -> bool:
    if types.is_dictionary(kind):
        return is_json(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return is_json(kind.value_type)
    if types.is_struct(kind):
        return all(is_json(field.type) for field in kind)
    plain = (types.is_boolean, types.is_integer, types.is_floating, types.is_null)
    return types.is_string(kind) or types.is_large_string(kind) or any(is_(kind) for is_ in plain)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
