"""The texts that jobs calibrate on and are measured on, by source name.

`builtin` comes with Python and is read by the core itself; `wikitext2` is on the hub;
`dataset:ds_...` was uploaded and lies in the artifact store.
"""

import shutil
import time
import zipfile
from pathlib import Path

from apiq_core.config import QuantizeConfig
from jobs import hub
from jobs.artifacts import ArtifactStore
from jobs.datasets.files import SOURCE, TEXT, fetch_dataset
from jobs.settings import Settings

BUILTIN = "builtin"
WIKITEXT2 = "wikitext2"

# the raw text as a plain zip; the better known repository has parquet only
WIKITEXT2_REPOSITORY = "ggml-org/ci"
WIKITEXT2_FILE = "wikitext-2-raw-v1.zip"
# the test split comes last: an evaluation on the calibration text is scored on the text's end
WIKITEXT2_MEMBERS = ("wikitext-2-raw/wiki.train.raw", "wikitext-2-raw/wiki.test.raw")

HUB_ANSWER_TTL_S = 60.0

_hub_answers: dict[str, tuple[bool, float]] = {}  # endpoint -> answer, when it is stale


def default_source(settings: Settings) -> str:
    """`wikitext2` if the hub answers (asked at most once a minute), else `builtin`."""
    if (known := known_default_source()) is not None:
        return known
    answers = hub.dataset_exists(WIKITEXT2_REPOSITORY, timeout_s=settings.hub_timeout_s)
    _hub_answers[hub.endpoint()] = (answers, time.monotonic() + HUB_ANSWER_TTL_S)
    return WIKITEXT2 if answers else BUILTIN


def known_default_source() -> str | None:
    """`default_source` as the hub's last answer has it; None if it has to be asked again."""
    answers, stale_at = _hub_answers.get(hub.endpoint(), (False, 0.0))
    if time.monotonic() >= stale_at:
        return None
    return WIKITEXT2 if answers else BUILTIN


def fetch_texts(config: QuantizeConfig, scratch_dir: Path, store: ArtifactStore) -> dict[str, Path]:
    """Bring every text that a run needs to `scratch_dir`: source name -> file."""
    texts: dict[str, Path] = {}
    for source in {config.calibration.source, config.evaluation.source} - {None, BUILTIN}:
        assert source is not None
        if source == WIKITEXT2:
            texts[source] = _fetch_wikitext2(scratch_dir)
        else:
            texts[source] = fetch_dataset(source.removeprefix(SOURCE), TEXT, scratch_dir, store)
    return texts


def _fetch_wikitext2(scratch_dir: Path) -> Path:
    scratch_dir.mkdir(parents=True, exist_ok=True)
    target = scratch_dir / f"{WIKITEXT2}.txt"
    repository = hub.HubRepository(WIKITEXT2_REPOSITORY, "main", ())
    archive = hub.download_dataset_file(repository, WIKITEXT2_FILE, target.parent)
    with zipfile.ZipFile(archive) as files, target.open("wb") as out:
        for name in WIKITEXT2_MEMBERS:
            with files.open(name) as member:
                shutil.copyfileobj(member, out)
    archive.unlink()
    return target
