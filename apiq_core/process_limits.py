"""What a process may use that reads strangers' files."""

import resource


def limit_process(*, cpu_s: int, memory_bytes: int) -> None:
    """Of this process, from now on: killed beyond the one, a `MemoryError` beyond the other."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
