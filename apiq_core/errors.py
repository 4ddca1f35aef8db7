"""What can go wrong in the core.

ApiQError
  UserError       the request or its input is wrong: retrying the same cannot help
  InfraError      the machine failed (disk full): retrying may help
Stopped           not an error: the run ended at a safe point because it was asked to
"""

from typing import Any, ClassVar


class ApiQError(Exception):
    """An error that a person can act on.

    `code` is stable and machine readable, `param` is the field at fault in dotted form
    (`calibration.samples`), `value` what was given, `legal` what would have been accepted.
    """

    fault: ClassVar[str]
    retryable: ClassVar[bool]

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        value: Any = None,
        legal: Any = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.value = value
        self.legal = legal

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON: code, message, fault, retryable, and param, value, legal if known."""
        known = {"param": self.param, "value": self.value, "legal": self.legal}
        return {
            "code": self.code,
            "message": self.message,
            "fault": self.fault,
            "retryable": self.retryable,
        } | {name: value for name, value in known.items() if value is not None}


class UserError(ApiQError):
    fault = "user"
    retryable = False


class InfraError(ApiQError):
    fault = "infra"
    retryable = True


class Stopped(Exception):
    """`should_stop` answered true; everything written so far is whole."""
