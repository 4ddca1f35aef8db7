"""Rows of a training set, in the shapes in which people have them.

| a row has                         | loss is on              | the model reads                  |
|-----------------------------------|-------------------------|----------------------------------|
| `messages`                        | what the assistant says | the model's chat template        |
| `prompt`, `completion`            | the completion          | one after the other              |
| `instruction`, `output` (`input`) | the output              | Alpaca's headings                |
| `question`, `answer`              | the answer              | `Question: ...` and `Answer: ...` |
| `text`                            | all of it               | the text                         |

Torch-free: the service checks rows while they are uploaded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Shape = Literal["messages", "prompt", "instruction", "question", "text"]
ROLES = ("system", "user", "assistant", "tool")

# the fields of each shape that must be there, and hold text; the first shape that fits is taken
SHAPES: dict[Shape, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "question": ("question", "answer"),
    "text": ("text",),
}
LABEL = "label"  # of a row for a classifier: docs/decisions/0013-classifiers.md
CALLS = ("tool_calls", "function_call")  # what an assistant asks of tools, beside its content
LEGAL = "messages; prompt, completion; instruction, output; question, answer; or text"


@dataclass(frozen=True)
class Segment:
    """A piece of what the model reads."""

    text: str
    learned: bool  # its tokens carry loss


@dataclass(frozen=True)
class Row:
    """One example. Of a chat only the template of a model makes segments."""

    shape: Shape
    segments: tuple[Segment, ...] = ()
    messages: tuple[Mapping[str, str], ...] = ()

    @property
    def characters(self) -> int:
        """Of all that is said in it."""
        return sum(len(s.text) for s in self.segments) + sum(
            len(message["content"]) for message in self.messages
        )


class BadRow(ValueError):
    """Why a line is no row: `field` is where, `reason` what is wrong and what is legal."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


def parse(line: str) -> Row:
    """A row from a line of JSON; raises `BadRow`."""
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")
        raise BadRow(
            "", f"not JSON: {reason} at character {error.pos + 1}; legal: a JSON object"
        ) from None
    except ValueError:
        raise BadRow("", "not JSON that anybody reads: a number of thousands of digits") from None
    except RecursionError:
        raise BadRow("", "not JSON that anybody reads: nested too deeply") from None
    if not isinstance(content, dict):
        raise BadRow("", f"{_kind(content)}, legal: a JSON object with {LEGAL}")
    shape = next((s for s, fields in SHAPES.items() if fields[0] in content), None)
    if shape is None:
        raise BadRow("", f"has {_names(content)}, legal: {LEGAL}")
    if shape == "text" and LABEL in content:
        raise BadRow(LABEL, "classes cannot be learned yet; legal: text without a label")
    if shape == "messages":
        return Row(shape, messages=_messages(content["messages"]))
    given = [_text(content, field) for field in SHAPES[shape]]
    if not given[-1].strip():
        raise BadRow(SHAPES[shape][-1], "empty, so that nothing carries loss")
    return Row(shape, segments=_segments(shape, given, content))


def _segments(shape: Shape, given: list[str], content: Mapping[str, Any]) -> tuple[Segment, ...]:
    *before, learned = given
    match shape:
        case "instruction":
            extra = _text(content, "input") if content.get("input") else ""
            middle = f"### Input:\n{extra}\n\n" if extra else ""
            before = [f"### Instruction:\n{before[0]}\n\n{middle}### Response:\n"]
        case "question":
            # the space belongs to the answer: tokens begin with theirs
            before, learned = [f"Question: {before[0]}\nAnswer:"], f" {learned}"
    return (*(Segment(text, False) for text in before if text), Segment(learned, True))


def _text(content: Mapping[str, Any], field: str) -> str:
    if field not in content:
        raise BadRow(field, f"missing; the row has {_names(content)}")
    return _checked(field, content[field])


def _checked(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow(field, f"{_kind(value)}, legal: text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        raise BadRow(field, f"has half of a surrogate pair, {half}, legal: text") from None
    return value


def _messages(value: Any) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise BadRow("messages", f"{_kind(value)}, legal: a list of messages, not empty")
    for number, message in enumerate(value):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            raise BadRow(place, f"{_kind(message)}, legal: an object with role and content")
        for field in CALLS:
            if message.get(field):  # without it the assistant would learn to say nothing instead
                raise BadRow(f"{place}.{field}", "calls cannot be learned yet; legal: content only")
        for field in ("role", "content"):
            if field not in message:
                raise BadRow(f"{place}.{field}", "missing, legal: text")
            _checked(f"{place}.{field}", message[field])
        if message["role"] not in ROLES:
            legal = ", ".join(ROLES)
            raise BadRow(f"{place}.role", f"{message['role'][:40]!r}, legal: {legal}")
    if not any(m["role"] == "assistant" and m["content"].strip() for m in value):
        raise BadRow("messages", "the assistant says nothing, so that nothing carries loss")
    return tuple({"role": m["role"], "content": m["content"]} for m in value)


def _kind(value: Any) -> str:
    if value in ("", [], {}):
        return "empty"
    names = {type(None): "null", bool: "a boolean", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _names(content: Mapping[str, Any]) -> str:
    shown = (name[:40] for name in list(content)[:8])
    # a name may hold what neither a terminal nor a database takes
    return ", ".join(n if n.isprintable() else ascii(n) for n in shown) or "no fields"
