"""The options of `apiq quantize` are the fields of QuantizeConfig."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

from apiq_client.cli import app
from apiq_client.options import given_fields
from apiq_core.config import QuantizeConfig
from jobs.requests import FinetuneRequest, QuantizeRequest
from jobs.states import State

WIDE = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Option name -> help, for every field, nested ones too."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        option = prefix + name.replace("_", "-")
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= fields(kind, f"{option}-")
        else:
            found[option] = field.description or ""
    return found


def help_text() -> str:
    result = CliRunner().invoke(app, ["quantize", "--help"], env=WIDE)
    assert result.exit_code == 0
    return result.output


def test_every_field_is_an_option_with_its_help() -> None:
    words = re.sub(r"\s+", "", help_text())
    expected = fields(QuantizeConfig)
    assert "calibration-samples" in expected
    for option, description in expected.items():
        assert f"--{option}" in words
        assert re.sub(r"\s+", "", description) in words


def test_defaults_and_choices_are_shown() -> None:
    text = help_text()
    assert "--bits 2|3|4|8" in text
    assert re.search(r"--calibration-samples\D+\[default: \(?64\)?\]", text, re.S)


def commands(of: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(of, "commands", {}).items():
        yield from commands(command, (*path, name))


def test_a_list_of_commands_says_all_of_each() -> None:
    for path in commands(get_command(app)):
        shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).output
        _, _, listed = shown.partition("Commands:")
        assert "..." not in listed, path


def test_no_option_is_described_as_python_has_it() -> None:
    for path in commands(get_command(app)):
        shown = CliRunner().invoke(app, [*path, "--help"], env=WIDE).output
        assert "list[" not in shown.partition("Options:")[2], path


def test_the_states_of_a_job_are_told() -> None:
    shown = CliRunner().invoke(app, ["jobs", "list", "--help"], env=WIDE).output
    assert f"--state {'|'.join(State)}" in shown


def test_only_what_was_given_is_sent_nested_as_the_request_has_it() -> None:
    arguments: dict[str, Any] = {
        "bits": 2,
        "rank": None,
        "formats": [],
        "calibration__samples": 3,
        "calibration__held_out": 0,
        "training__epochs": None,
    }
    assert given_fields(arguments) == {"bits": 2, "calibration": {"samples": 3, "held_out": 0}}


@pytest.mark.parametrize(
    "arguments",
    [
        ["quantize", "m"],  # neither --bits nor --bits-per-weight
        ["quantize", "m", "--bits", "2", "--bits-per-weight", "2.5"],
        ["quantize", "m", "--bits", "two"],
        ["quantize", "m", "--bits", "2", "--no-such-option"],
        ["quantize", "m", "--bits", "2", "--label", "no-equals-sign"],
        ["no-such-command"],
        ["jobs", "show"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments, env=WIDE).exit_code == 2


def test_what_is_no_number_is_told_which_are() -> None:
    result = CliRunner().invoke(app, ["quantize", "m", "--bits", "two"], env=WIDE)
    assert "'two'; legal: 2, 3, 4, 8" in result.output


@pytest.mark.parametrize(
    ("name", "request_model"), [("quantize", QuantizeRequest), ("finetune", FinetuneRequest)]
)
def test_every_field_of_the_request_is_an_option(name: str, request_model: type[BaseModel]) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    there = {str(option.name).partition("__")[0] for option in command.params}
    spelled = {"labels": "label", "hub_token": "hub_token_from_env"}
    wanted = {spelled.get(field, field) for field in request_model.model_fields} - {"type"}
    assert wanted <= there
