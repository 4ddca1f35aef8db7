"""The fields of a config as options of a command: name, type, default and help once."""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

SEPARATOR = "__"  # between the name of a nested model and its field, in parameter names


def with_options_of(
    config: type[BaseModel], **nested: type[BaseModel]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's `**config` by one option a field of `config`, and of each of `nested`,
    under its name."""
    return lambda command: _with_options(command, config, nested)


def _with_options(
    command: Callable[..., None], config: type[BaseModel], nested: Mapping[str, type[BaseModel]]
) -> Callable[..., None]:
    signature = inspect.signature(command)
    own = [x for x in signature.parameters.values() if x.kind is not inspect.Parameter.VAR_KEYWORD]
    generated = list(_parameters(config, ""))
    for name, model in nested.items():
        generated += _parameters(model, f"{name}{SEPARATOR}")
    required = [x for x in [*own, *generated] if x.default is inspect.Parameter.empty]
    optional = [x for x in [*generated, *own] if x.default is not inspect.Parameter.empty]

    def wrapper(**arguments: Any) -> None:
        command(**arguments)

    wrapper.__doc__ = command.__doc__
    wrapper.__name__ = command.__name__
    wrapper.__signature__ = signature.replace(parameters=[*required, *optional])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {x.name: x.annotation for x in [*required, *optional]}
    return wrapper


def given_fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, nested as the request has them."""
    fields: dict[str, Any] = {}
    for name, value in arguments.items():
        if value is None or value == []:
            continue
        *parents, field = name.split(SEPARATOR)
        place = fields
        for parent in parents:
            place = place.setdefault(parent, {})
        place[field] = value
    return fields


def _parameters(model: type[BaseModel], prefix: str) -> Iterator[inspect.Parameter]:
    for name, field in model.model_fields.items():
        annotation = _without_none(field.annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _parameters(annotation, f"{prefix}{name}{SEPARATOR}")
            continue
        dashed = f"{prefix}{name}".replace(SEPARATOR, "-").replace("_", "-")
        option = typer.Option(
            f"--{dashed}/--no-{dashed}" if annotation is bool else f"--{dashed}",
            help=field.description,
            metavar=_metavar(annotation),
            parser=_number_of(annotation),
            # what is left out is not sent: the server fills in and shows its default
            show_default=_shown_default(field),
        )
        kind = _plain_type(annotation)
        yield inspect.Parameter(
            f"{prefix}{name}",
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else None,
            annotation=Annotated[kind if field.is_required() else kind | None, option],
        )


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not types.NoneType]
        return _without_none(kinds[0])
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    return annotation


def _plain_type(annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0])
    if get_origin(annotation) is list:
        return list[str]
    return annotation


def _number_of(annotation: Any) -> Callable[[str], int] | None:
    """Reads one of some numbers; typer alone would only say that there is none."""
    if _plain_type(annotation) is not int or get_origin(annotation) is not Literal:
        return None

    def parse(text: str) -> int:
        try:
            return int(text)
        except ValueError:
            legal = ", ".join(map(str, get_args(annotation)))
            raise typer.BadParameter(f"{text!r}; legal: {legal}") from None

    return parse


def _metavar(annotation: Any) -> str | None:
    if get_origin(annotation) is list:
        return _metavar(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return None


def _shown_default(field: FieldInfo) -> str | bool:
    if field.is_required() or field.default is None:
        return False
    default = field.default
    return ",".join(map(str, default)) if isinstance(default, list) else str(default)
