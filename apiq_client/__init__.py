"""The Python SDK and the `apiq` command. Speaks HTTP only."""

from apiq_client.errors import ApiqError, DownloadError, JobFailed, ProblemError, Unreachable
from apiq_client.records import Artifact, Dataset, Event, Job, JobPage
from apiq_client.sdk import Client

__all__ = [
    "ApiqError",
    "Artifact",
    "Client",
    "Dataset",
    "DownloadError",
    "Event",
    "Job",
    "JobFailed",
    "JobPage",
    "ProblemError",
    "Unreachable",
]
