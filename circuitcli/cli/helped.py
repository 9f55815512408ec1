"""How the help of a command looks: what most people use, then a section for each table of settings, then an example.

Plain text, which takes a third of the time that panels take.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from typer.core import TyperCommand, TyperGroup

# What most people use of each command, eight at most: these come first.
OFTEN = {
    "run-all": "--model --release --layers --prompt --text --pin --attribute --run",
    "fetch-saes": "--run --model --release --layers --site --list",
    "cache-acts": "--run --prompt --text --dataset --num-sequences --max-tokens --top-k --seed",
    "ablate": "--run --pin --thinning --branching --max-features --seq-cap --positions --dry-run",
    "effects": "--run --feature --by-position --steer --prompt --generate --logit-tokens",
    "attribute": "--run --target --against --counterfactual --prompts --baseline --method --nodes",
    "graph": "--run --of --format --labels --max-edges --min-effect --extend --load",
    "stability": "--run --seeds --halves --interventions --dry-run --force --json",
    "validate": "--run --prompts --circuit --pin --nodes --baseline --metric --dry-run",
    "test": "--run --write --edges --junit --device --json",
    "doctor": "--model --release --layers --site --text --json",
    "bench": "--model --release --layers --shape --device --json",
    "show": "--profile --run --json",
}


class Command(TyperCommand):
    """A command; the lines of its epilog are examples."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _read_where_needed(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        often = OFTEN.get(str(self.name), "").split()
        arguments, first, rest = {}, {}, {}
        sections: dict[str, dict[str, tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            title = getattr(parameter, "rich_help_panel", None)
            flag = parameter.opts[0]
            if parameter.param_type_name == "argument":
                arguments[flag] = record
            elif flag in often:
                first[flag] = record
            elif title:
                sections.setdefault(title, {})[flag] = record
            else:
                rest[flag] = record
        first = {flag: first[flag] for flag in often if flag in first}
        for title, records in {"Arguments": arguments, "Most used": first, **sections, "Options": rest}.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(list(records.values()))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.epilog, formatter)


class Group(TyperGroup):
    """A command that holds others; the lines of its epilog are examples."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _read_where_needed(super().get_params(ctx))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.epilog, formatter)


def _read_where_needed(parameters: list[Any]) -> list[Any]:
    """Spare typer its readers of flags where there is nothing to read.

    It makes one of pydantic's for every flag of a command, those that were not given too: a tenth of a second. A flag
    that was not given, and text that stays text, need none.
    """
    for parameter in parameters:
        if not parameter.required and "process_value" not in vars(parameter):
            parameter.process_value = partial(_value, parameter, parameter.process_value)
    return parameters


def _value(parameter: Any, read: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """What stands for the words of a flag; `read` is typer's own way."""
    kind = parameter.type_descriptor.annotation
    if value is None:
        value = () if parameter.multiple or parameter.nargs == -1 else None
    elif not (kind is str and isinstance(value, str)):
        return read(context, value)
    return parameter.callback(context, parameter, value) if parameter.callback else value


def _write_examples(epilog: str | None, formatter: Any) -> None:
    """Commands to copy, on lines that aren't wrapped."""
    if epilog:
        with formatter.section("Examples"):
            for line in epilog.splitlines():
                formatter.write(f"  {line}\n")
