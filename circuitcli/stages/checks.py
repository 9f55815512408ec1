"""Checks of names and pins that need nothing but the settings, made before a run is touched."""

from __future__ import annotations

from circuitcli import interventions
from circuitcli.core.sites import parse_layers, parse_pin, parse_site
from circuitcli.errors import UsageError
from circuitcli.runtime.device_name import check_device_name
from circuitcli.settings import Settings
from circuitcli.settings.tree import Ablate

_ANY_DEPTH = 10_000


def check(settings: Settings) -> None:
    """Refuse unknown sites and devices, what is no slice or pin, and settings for nothing.

    Raises:
        UsageError: With the nearest known name.
    """
    check_device_name(settings.runtime.device)
    for site in settings.saes.sites if settings.saes.sites != "auto" else ():
        parse_site(site)
    _check_strength(settings.ablate)
    for pin in settings.features.pinned:
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
