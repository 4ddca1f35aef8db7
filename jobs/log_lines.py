"""How every process of the service writes its log."""

import structlog


def log_lines() -> None:
    """One line an event, `key=value`, on stdout; a traceback shows no variables."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ]
    )
