"""What the records refuse.

JobError
  JobNotFound           no such job
  JobAlreadyFinished    it ended, so it cannot be cancelled
  JobNotFinished        it has no artifacts yet, and cannot be deleted
  JobInUse              a job that has not ended trains on what it made
  JobNotRetryable       it runs, waits or succeeded: there is nothing to repeat
  IdempotencyKeyReused  another request used this key
  QuotaExceeded         its owner has as many jobs or bytes as are allowed
  InvalidCursor         a page cursor that this service never gave out
  DatasetNotFound       no such dataset
  DatasetInUse          a job that has not ended needs it
  ObjectNotFound        the artifact store has no such object
  LeaseLost             this attempt is no longer the job's: stop, touch nothing
  CancelRequested       this attempt holds the job, but it is to be cancelled

OSError
  StoreUnavailable      the artifact store failed; it may work later
"""

from typing import ClassVar


class JobError(Exception):
    """`code` is stable and machine readable; `http_status` is what the face answers."""

    code: ClassVar[str]
    http_status: ClassVar[int]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class JobNotFound(JobError):
    code = "job_not_found"
    http_status = 404


class JobAlreadyFinished(JobError):
    code = "job_already_finished"
    http_status = 409


class JobNotFinished(JobError):
    code = "job_not_finished"
    http_status = 409


class JobInUse(JobError):
    code = "job_in_use"
    http_status = 409


class JobNotRetryable(JobError):
    code = "job_not_retryable"
    http_status = 409


class IdempotencyKeyReused(JobError):
    code = "idempotency_key_reused"
    http_status = 409


class QuotaExceeded(JobError):
    code = "quota_exceeded"
    http_status = 429


class InvalidCursor(JobError):
    code = "invalid_request"
    http_status = 422


class DatasetNotFound(JobError):
    code = "dataset_not_found"
    http_status = 404


class DatasetInUse(JobError):
    code = "dataset_in_use"
    http_status = 409


class ObjectNotFound(JobError):
    code = "artifact_not_found"
    http_status = 404


class LeaseLost(JobError):
    code = "lease_lost"
    http_status = 409


class CancelRequested(JobError):
    code = "cancel_requested"
    http_status = 409


class StoreUnavailable(OSError):
    """The artifact store failed or refused: nobody's request is to blame, and it may work later.

    An `OSError`, as a directory's failures are: who handles a full disk handles this.
    """
