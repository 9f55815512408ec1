"""Names of sites, layers and features, and what lies downstream of what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core.selection import downstream
from circuitcli.core.shape import ModelShape
from circuitcli.core.sites import (
    SITES,
    FeatureId,
    Site,
    check_sites,
    is_upstream,
    parse_feature,
    parse_hook,
    parse_layers,
    parse_pin,
    parse_site,
    require_layers,
    resolve_pins,
)
from circuitcli.errors import InputError, UsageError

LONG = "9" * 5000  # more digits than int() takes


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        (":", [0, 1, 2, 3, 4, 5]),
        ("2:4", [2, 3]),
        ("4:", [4, 5]),
        (":2", [0, 1]),
        ("-2:", [4, 5]),
        (":-4", [0, 1]),
        ("0:6", [0, 1, 2, 3, 4, 5]),
        ("3", [3]),
        ("-1", [5]),
        (" 1:2 ", [1]),
    ],
)
def test_layers_are_a_slice(text: str, layers: list[int]) -> None:
    assert parse_layers(text, 6) == layers


@given(st.integers(1, 20), st.integers(-25, 25), st.integers(-25, 25))
def test_layers_are_what_python_slices_or_refused(n: int, start: int, stop: int) -> None:
    inside = all(-n <= bound <= n for bound in (start, stop))
    expected = [*range(n)][start:stop]
    if inside and expected:
        assert parse_layers(f"{start}:{stop}", n) == expected
    else:
        with pytest.raises(UsageError):
            parse_layers(f"{start}:{stop}", n)


@pytest.mark.parametrize(
    "text", ["", "a", "1:2:3", "::2", "1,2", "3:3", "4:2", "6", "-7", "6:", ":7", "1.5", "1:x", "--1"]
)
def test_layers_that_are_no_slice_empty_or_outside(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_layers(text, 6)
    assert error.value.hint


def test_a_step_is_named() -> None:
    with pytest.raises(UsageError, match="step"):
        parse_layers("0:6:2", 6)


@pytest.mark.parametrize(
    ("text", "pin"),
    [("4:112", (4, None, 112)), ("4.resid_post.112", (4, "resid_post", 112)), (" 0.z.0 ", (0, "z", 0))],
)
def test_a_pin_in_both_forms(text: str, pin: tuple[int, str | None, int]) -> None:
    assert parse_pin(text) == pin


@pytest.mark.parametrize(
    "text", ["", "4", "4:", ":4", "4.112", "4.resid.112", "a:1", "4:-1", "-4:1", "4.z.1.2", "4:1 2"]
)
def test_what_is_no_pin(text: str) -> None:
    with pytest.raises(UsageError, match="name a feature"):
        parse_pin(text)


@pytest.mark.parametrize("text", [LONG, f"-{LONG}", f"0:{LONG}", f"-{LONG}:", f"{LONG}:{LONG}"])
def test_layers_of_too_many_digits(text: str) -> None:
    with pytest.raises(UsageError, match="not a slice"):
        parse_layers(text, 6)


@pytest.mark.parametrize("text", [f"4:{LONG}", f"{LONG}:4", f"4.z.{LONG}", f"{LONG}.z.4"])
def test_pins_of_too_many_digits(text: str) -> None:
    with pytest.raises(UsageError, match="name a feature"):
        parse_pin(text)


def test_pins_are_resolved_sorted_and_once() -> None:
    widths = {Site(1, "resid_post"): 10, Site(0, "z"): 5, Site(1, "attn_out"): 7}
    pins = ["1.resid_post.9", "0:4", "1.attn_out.6", "0.z.4"]
    assert [str(f) for f in resolve_pins(pins, widths)] == ["0.z.4", "1.attn_out.6", "1.resid_post.9"]


@pytest.mark.parametrize(
    ("pin", "words"),
    [("2:1", "no SAE"), ("0.attn_out.1", "no SAE"), ("1:1", "several sites"), ("0:5", "outside"), ("x", "a feature")],
)
def test_pins_that_name_nothing(pin: str, words: str) -> None:
    widths = {Site(0, "z"): 5, Site(1, "attn_out"): 7, Site(1, "resid_post"): 10}
    with pytest.raises(UsageError, match=words) as error:
        resolve_pins([pin], widths)
    if words == "several sites":
        assert "1.attn_out.1" in error.value.hint
        assert "1.resid_post.1" in error.value.hint


def test_both_names_of_one_tensor_are_refused() -> None:
    with pytest.raises(UsageError, match=r"3\.resid_post and 4\.resid_pre"):
        check_sites([Site(4, "resid_pre"), Site(1, "resid_post"), Site(3, "resid_post")])
    check_sites([Site(3, "resid_pre"), Site(3, "resid_post"), Site(5, "resid_pre")])


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("down", SITES)
@pytest.mark.parametrize("up", SITES)
def test_what_is_upstream_within_a_block(up: str, down: str, parallel: bool) -> None:
    order = ["resid_pre", "z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post"]
    expected = order.index(up) < order.index(down)
    if parallel and up in ("z", "attn_out") and down in ("mlp_in", "mlp_out"):
        expected = False
    assert is_upstream(Site(2, up), Site(2, down), parallel=parallel) == expected
    assert is_upstream(Site(2, up), Site(3, down), parallel=parallel)
    assert not is_upstream(Site(3, up), Site(2, down), parallel=parallel)


def test_downstream_reaches_the_next_chosen_layer() -> None:
    shape = ModelShape(6, 8, 8, 10, 16)
    sites = [Site(layer, name) for layer in (4, 1, 5, 2) for name in ("resid_post", "attn_out", "mlp_out")]
    names = [str(s) for s in downstream(Site(2, "attn_out"), sites, shape)]
    assert names == ["2.mlp_out", "2.resid_post", "4.attn_out", "4.mlp_out", "4.resid_post"]
    assert downstream(Site(5, "resid_post"), sites, shape) == []
    parallel = ModelShape(6, 8, 8, 10, 16, parallel=True)
    assert [str(s) for s in downstream(Site(5, "attn_out"), sites, parallel)] == ["5.resid_post"]


def test_downstream_of_what_writes_elsewhere_begins_where_it_writes() -> None:
    """What lies between doesn't change; what reads the edited site itself does."""
    shape = ModelShape(6, 8, 8, 10, 16)
    sites = [Site(layer, name) for layer in (2, 4) for name in ("resid_mid", "mlp_in", "mlp_out", "resid_post")]
    names = [str(s) for s in downstream(Site(2, "resid_mid"), sites, shape, Site(2, "mlp_out"))]
    assert names == ["2.mlp_out", "2.resid_post", "4.resid_mid", "4.mlp_in", "4.mlp_out", "4.resid_post"]
    sites.remove(Site(2, "mlp_out"))
    assert downstream(Site(2, "resid_mid"), sites, shape, Site(2, "mlp_out"))[0] == Site(2, "resid_post")


def test_hooks_are_transformer_lenss() -> None:
    assert Site(3, "z").hook == "blocks.3.attn.hook_z"
    assert Site(3, "mlp_out").hook == "blocks.3.hook_mlp_out"
    assert Site(3, "mlp_in").hook == "blocks.3.mlp.hook_in"
    assert [parse_hook(Site(12, name).hook) for name in SITES] == [Site(12, name) for name in SITES]
    assert parse_hook("blocks.3.hook_mlp_in") is None, "TransformerLens's name of what the MLP's norm reads"
    assert parse_hook("blocks.3.ln2.hook_normalized") is None, "with the norm's weights, or without"


@pytest.mark.parametrize("site", [Site(0, "z"), Site(123456789, "resid_pre")])
def test_a_hook_reads_back(site: Site) -> None:
    assert parse_hook(site.hook) == site


@pytest.mark.parametrize("layer", ["", "x", "-1", "1.5", LONG])
def test_what_is_no_hook(layer: str) -> None:
    assert parse_hook(f"blocks.{layer}.hook_resid_pre") is None


@given(st.integers(0, 99), st.sampled_from(SITES), st.integers(0, 10**6))
def test_a_features_name_reads_back(layer: int, site: str, index: int) -> None:
    feature = FeatureId(Site(layer, site), index)
    assert str(feature) == f"{layer}.{site}.{index}"
    assert parse_feature(str(feature)) == feature
    assert parse_pin(str(feature)) == (layer, site, index)


def test_an_unknown_site_names_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        parse_site("resid_pots")
    assert "`resid_post`" in error.value.hint


def test_a_missing_layer_lists_those_there_are() -> None:
    require_layers([1, 2], [0, 1, 2], site="z", release="r")
    with pytest.raises(InputError, match=r"3\.z") as error:
        require_layers([1, 3], [0, 1, 2], site="z", release="r")
    assert "0, 1, 2" in error.value.hint
