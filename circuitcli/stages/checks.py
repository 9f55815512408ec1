"""Checks of names and pins that need nothing but the settings, made before a run is touched."""

from __future__ import annotations

from circuitcli import executors, interventions
from circuitcli.core.sites import parse_layers, parse_pin, parse_site
from circuitcli.errors import UsageError, quoted
from circuitcli.runtime.device_name import check_device_name
from circuitcli.settings import Settings
from circuitcli.settings.tree import Ablate, Attribute

_ANY_DEPTH = 10_000


def check(settings: Settings) -> None:
    """Refuse unknown sites and devices, what is no slice or pin, and settings for nothing.

    Raises:
        UsageError: With the nearest known name.
    """
    check_device_name(settings.runtime.device)
    executors.check(settings.executor)
    for site in settings.saes.sites if settings.saes.sites != "auto" else ():
        parse_site(site)
    _check_strength(settings.ablate)
    _check_question(settings.attribute)
    if settings.graph.of == "attribution":
        refuse_to_extend(settings)
    for pin in (*settings.features.pinned, *settings.validate.pinned, *settings.validate.audit):
        parse_pin(pin)
    if settings.ablate.horizon and settings.ablate.positions != "onward":
        raise UsageError(
            f"A horizon of {settings.ablate.horizon} is for --positions onward, not {settings.ablate.positions}.",
            hint="Leave --horizon out, or give --positions onward.",
        )
    parse_layers(settings.saes.layers, _ANY_DEPTH)


def _check_strength(ablate: Ablate) -> None:
    """Whoever names a strength wants to steer."""
    if ablate.strength == Ablate.strength or "strength" in interventions.options(ablate.intervention, ablate):
        return
    raise UsageError(
        f"A strength of {ablate.strength:g} is for --intervention steer, not {ablate.intervention}.",
        hint=f"Leave --strength out (it is {Ablate.strength:g} then), or give --intervention steer.",
    )


def _check_question(asked: Attribute) -> None:
    """One that can be answered: from the flags, or from a file of questions alone."""
    own = {"--target": asked.target, "--against": asked.against, "--counterfactual": asked.counterfactual}
    given = [flag for flag, value in own.items() if value]
    if asked.prompts and given:
        raise UsageError(
            f"{' and '.join(given)} can't go with --prompts {asked.prompts}, whose lines are whole questions.",
            hint=f"Put them in the file, or drop what the run was asked before: --prompts '' or {given[0]} ''.",
        )
    if asked.against and not asked.target:
        raise UsageError(
            "--against needs a --target: it explains why the target is likelier.",
            hint=f"Give both: --target TOKEN --against {quoted(asked.against)}.",
        )
    if asked.target and asked.target == asked.against:
        raise UsageError(
            f"--target and --against are the same token, {asked.target!r}: their logits don't differ.",
            hint="Give another --against, or leave it out.",
        )
    if asked.counterfactual and asked.baseline not in ("auto", "patch"):
        raise UsageError(
            f"A counterfactual is for --baseline patch, not {asked.baseline}.",
            hint="Leave --counterfactual out, or --baseline.",
        )
    if asked.baseline == "patch" and not (asked.counterfactual or asked.prompts):
        raise UsageError(
            "--baseline patch needs a prompt to take activations from.",
            hint="Give --counterfactual TEXT, of as many tokens, or a file of questions that have one: --prompts FILE.",
        )


def refuse_to_extend(settings: Settings) -> None:
    """Refuse graphs to extend by one of an attribution: its effects are those of one question, and no mean effects.

    Raises:
        UsageError: The settings name some.
    """
    if settings.graph.extend:
        raise UsageError(
            "The graph of an attribution can't be added to another: --extend is for mean effects.",
            hint="Leave it out with --extend none, or draw mean effects with --of effects.",
        )
