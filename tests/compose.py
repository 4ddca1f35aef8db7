"""docker-compose.yml and the Dockerfiles as data."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from compose_spec import parse_duration

ROOT = Path(__file__).parents[1]
COMPOSE_FILE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / "docker" / "env.example"

VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


def text() -> str:
    return COMPOSE_FILE.read_text(encoding="utf-8")


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """As `docker compose` does for `${NAME:-default}`, `${NAME:?message}` and `$$`: in every
    text of what was parsed."""
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        if given := variables.get(match["name"]):
            return given
        if match["kind"] == "-":
            return match["text"]
        raise KeyError(f"{match['name']}: {match['text']}")

    return VARIABLE.sub(found, value)


def load(variables: Mapping[str, str]) -> dict[str, Any]:
    """The whole file with every variable filled in."""
    spec: dict[str, Any] = interpolate(yaml.safe_load(text()), variables)
    return spec


def services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(variables)["services"]
    return found


def env_file(content: str) -> dict[str, str]:
    """What `docker compose` reads from a .env file."""
    lines = (line.partition("=") for line in content.splitlines() if line[:1].isalpha())
    return {name: value for name, _, value in lines}


def documented() -> dict[str, str]:
    """Every variable of env.example, also those that are commented out."""
    content = ENV_EXAMPLE.read_text(encoding="utf-8")
    return env_file(re.sub(r"^# ([A-Z_0-9]+=)", r"\1", content, flags=re.M))


def seconds(duration: str) -> float:
    """`1m` is 60."""
    return float(parse_duration(duration))


def dockerfile(service: Mapping[str, Any]) -> Path | None:
    """Of a service that is built here."""
    build = service.get("build")
    return ROOT / build["context"] / build["dockerfile"] if build else None


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, the rest) of the last stage of a Dockerfile, on one line each."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", path.read_text("utf-8"), flags=re.M))
    found: list[tuple[str, str]] = []
    for line in joined.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.clear()
        if word:
            found.append((word, rest.strip()))
    return found


def command(service: Mapping[str, Any]) -> list[str]:
    """The whole command line of a service: of the compose file, else of its image."""
    words: dict[str, list[str]] = {}
    if path := dockerfile(service):
        for name, rest in instructions(path):
            if name in ("ENTRYPOINT", "CMD"):
                words[name] = json.loads(rest)
    return words.get("ENTRYPOINT", []) + (service.get("command") or words.get("CMD", []))


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """What the processes of a service find in their environment, PATH left out."""
    found: dict[str, str] = {}
    if path := dockerfile(service):
        for name, rest in instructions(path):
            if name == "ENV":
                found |= dict(pair.split("=", 1) for pair in rest.split())
    found.pop("PATH", None)
    return found | {k: str(v) for k, v in (service.get("environment") or {}).items()}
