"""How the start was chosen, in words."""

from dataclasses import replace

import pytest

from circuitcli.settings import Settings
from circuitcli.stages.start import in_words


@pytest.mark.parametrize(
    ("pins", "words"),
    [
        ((), "features of the first layer: 1% of those that fire, at random"),
        (("4:1", "4.z.2"), "features of the first layer: the pinned"),
        (("5:1",), "features of the first layer: 1% of those that fire, at random; of layer 5: the pinned"),
        (("6:1", "5:1", "4:9"), "features of the first layer: the pinned; of layers 5, 6: the pinned"),
    ],
)
def test_words(pins: tuple[str, ...], words: str) -> None:
    settings = Settings()
    settings = replace(settings, features=replace(settings.features, pinned=pins, thinning=0.01))
    assert in_words(settings, [6, 4, 5]) == words
