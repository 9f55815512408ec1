"""Dictionaries: encode, decode and edit, exactly as they were trained.

    h   = (frame(x) − b_dec·[apply_b_dec_to_input]) W_enc      see `core.frame`
    a   = act(h + b_enc)                                       see `core.activations`
    x̂   = σ·(a W_dec + b_dec) + shift                          of one that writes where it reads: an SAE
    ŷ   = a W_dec + b_dec + x W_skipᵀ                          of one that writes elsewhere: a transcoder
    ŷ_l = Σ_s a_s W_dec[s→l] + b_dec[l]                        of several that write there: a cross-layer transcoder

A *transcoder* reads what an MLP reads and writes what it gives (Dunefsky et al. 2024); a *cross-layer transcoder* has a
dictionary a layer, whose features write what several MLPs give, their own and later ones (Ameisen et al. 2025).
Conventions of SAELens and circuit-tracer. All arithmetic is float32, whatever the model runs in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from circuitcli.core.activations import Activation, Candidates
from circuitcli.core.active import Active
from circuitcli.core.frame import PLAIN, Frame
from circuitcli.core.matrix import Matrix, moved, rows, whole
from circuitcli.core.sites import Site
from circuitcli.core.transfer import filling

_DENSE_BYTES = 2**26  # of the encodings that a CPU holds at once where only the active ones are wanted


class Decoder(NamedTuple):
    """What the features of a dictionary write at one site.

    Attributes:
        site: Where.
        w_dec: [d_sae, d_out], of floats of any width, maybe left in a file; rows are float32 as they are given.
    """

    site: Site
    w_dec: Matrix

    @property
    def width(self) -> int:
        """D_out."""
        return self.w_dec.shape[1]

    def rows(self, feature: Int[Tensor, "*n"]) -> Float[Tensor, "*n d_out"]:
        """W_dec[feature], where `feature` is. No other row is read."""
        return rows(self.w_dec, feature)

    def whole(self) -> Float[Tensor, "d_sae d_out"]:
        """W_dec in float32."""
        return whole(self.w_dec)

    def summed(
        self, place: Int[Tensor, " m"], feature: Int[Tensor, " m"], value: Float[Tensor, " m"], places: int
    ) -> Float[Tensor, "n d_out"]:
        """Σ value · W_dec[feature] at each of so many places, which ascend; by the rows of these features alone."""
        w_dec = self.w_dec
        if isinstance(w_dec, Tensor) and w_dec.dtype == torch.float32 and w_dec.device == value.device:
            before = place.bincount(minlength=places)
            first = before.cumsum(0) - before
            return embedding_bag(feature, w_dec, first, mode="sum", per_sample_weights=value)
        found = torch.zeros(places, self.width, device=value.device)
        size = max(1, _DENSE_BYTES // (4 * self.width))
        for part in torch.arange(len(place), device=place.device).split(size):
            found.index_add_(0, place[part], value[part].unsqueeze(1) * self.rows(feature[part]))
        return found


@dataclass(frozen=True, eq=False)
class Dictionary:
    """One dictionary: an SAE writes where it reads, a transcoder elsewhere, one of several layers at several sites.

    Attributes:
        reads: The site whose activations it encodes.
        writes: The first site that it reconstructs, where it has a bias: of a cross-layer transcoder that of its layer.
        activation: What it makes of its pre-activations, with the tensors of its own that this takes.
        w_enc, b_enc, w_dec, b_dec: Weights, float32. b_enc is 0 where the activation has biases of its own. W_dec is
            what features write at `writes`; it may have other floats, see `Decoder`. W_enc [d_in, d_sae] and W_dec
            [d_sae, d_out] may be left in their files.
        apply_b_dec_to_input: Whether b_dec is subtracted before encoding.
        frame: How it sees activations; of one that writes where it reads, also how what it says is put back.
        w_skip: Of a transcoder: what is added to its reconstruction of what it reads, x W_skipᵀ; None: nothing.
        centre_out: Of a transcoder: whether it writes a stream whose mean over d_model was removed, while the model
            keeps it.
        further: What its features write at later sites, in the model's order.
    """

    reads: Site
    writes: Site
    activation: Activation
    w_enc: Matrix
    b_enc: Float[Tensor, " d_sae"]
    w_dec: Matrix
    b_dec: Float[Tensor, " d_out"]
    apply_b_dec_to_input: bool = True
    frame: Frame = PLAIN
    w_skip: Float[Tensor, "d_out d_in"] | None = None
    centre_out: bool = False
    further: tuple[Decoder, ...] = field(default=())

    def __post_init__(self) -> None:
        orders = [site.order for site in self.written]
        assert orders == sorted(set(orders)), "it writes sites in the model's order, each once"
        assert self.reads.order <= self.writes.order, "it writes nothing before it reads"

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return self.w_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of its features."""
        return self.w_enc.shape[1]

    @property
    def encoder(self) -> Float[Tensor, "d_in d_sae"]:
        """W_enc."""
        return whole(self.w_enc)

    @property
    def elsewhere(self) -> bool:
        """Whether it writes where it doesn't read."""
        return self.writes != self.reads

    @property
    def decoders(self) -> tuple[Decoder, ...]:
        """What its features write, site by site."""
        return (Decoder(self.writes, self.w_dec), *self.further)

    @property
    def written(self) -> tuple[Site, ...]:
        """The sites that it writes, in the model's order."""
        return (self.writes, *(decoder.site for decoder in self.further))

    def decoder(self, site: Site) -> Decoder:
        """What its features write at one of the sites that it writes."""
        return next(one for one in self.decoders if one.site == site)

    @property
    def lands(self) -> Frame:
        """How what it says is put where it writes."""
        return Frame(centre=self.centre_out) if self.elsewhere else self.frame

    def to(self, device: torch.device, *, decoder: bool = True) -> Dictionary:
        """The same on another device; without its decoders where only some of their rows will be asked for."""
        further, w_dec = self.further, self.w_dec
        if decoder:
            w_dec = moved(w_dec, device)
            further = tuple(one._replace(w_dec=moved(one.w_dec, device)) for one in further)
        return replace(
            self,
            activation=self.activation.to(device),
            w_enc=moved(self.w_enc, device),
            b_enc=self.b_enc.to(device),
            w_dec=w_dec,
            b_dec=self.b_dec.to(device),
            frame=self.frame.to(device),
            w_skip=None if self.w_skip is None else self.w_skip.to(device),
            further=further,
        )

    def pre_activations(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """The pre-activations h + b_enc, to which the activation is applied."""
        seen = self.frame.seen(x)
        seen = seen - self.b_dec if self.apply_b_dec_to_input else seen
        return torch.matmul(seen, self.encoder).add_(self.b_enc)

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Activations of all features, ≥ 0."""
        return self.activation.apply(self.pre_activations(x))

    def active(self, x: Float[Tensor, "n d_in"]) -> Active:
        """The activations that aren't 0, of each row; all of them are never held at once."""
        none = torch.zeros(0, dtype=torch.long, device=x.device)
        parts = [(none, none, torch.zeros(0, device=x.device))]
        for start, may in self.candidates(x):
            row, feature, value = may.firing()
            parts.append((row + start, feature, value))
        place, feature, value = (torch.cat(column) for column in zip(*parts, strict=True))
        return Active(place, feature, value, self.d_sae)

    @property
    def rows_at_once(self) -> int:
        """How many rows are encoded at once where only the active ones are wanted."""
        return max(1, filling(self.b_enc.device, _DENSE_BYTES) // (4 * self.d_sae))

    def candidates(self, x: Float[Tensor, "n d_in"]) -> Iterator[tuple[int, Candidates]]:
        """What may be active, of `rows_at_once` rows at a time, and the first of these."""
        for start in range(0, len(x), self.rows_at_once):
            yield start, self.activation.candidates(self.pre_activations(x[start : start + self.rows_at_once]))

    def doubtful(self, x: Float[Tensor, "*n d_in"], within: float) -> Bool[Tensor, "*n d_sae"]:
        """Features so near to where they begin to fire that rounding may decide."""
        return self.activation.border(self.pre_activations(x)) < within

    def decode(
        self,
        a: Float[Tensor, "*n d_sae"],
        x: Float[Tensor, "*n d_in"],
        y: Float[Tensor, "*n d_out"] | None = None,
    ) -> Float[Tensor, "*n d_out"]:
        """The reconstruction of what is at `writes` from activations `a` of this dictionary alone.

        Args:
            a: Activations.
            x: What it reads.
            y: What it reconstructs, which gives the frame that is put back; x, if it writes where it reads.
        """
        return self.lands.put_back(a @ whole(self.w_dec) + self.constant(x), x if y is None else y)

    def constant(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "... d_out"]:
        """What it says at `writes` beside its features: b_dec + x W_skipᵀ, of x as it sees it but not normalised."""
        return self.b_dec if self.w_skip is None else self.b_dec + self.frame.unscaled.seen(x) @ self.w_skip.T

    def edit(
        self,
        x: Float[Tensor, "*n d_in"],
        feature: Int[Tensor, "*n"],
        activation: Float[Tensor, "*n"],
        replacement: Float[Tensor, "*n"],
    ) -> dict[Site, Float[Tensor, "*n d_out"]]:
        """δ = σ·(c − a_j)·W_dec[j] at each site that it writes: what replacing one feature's activation adds there.

        The errors and all other latents stay as they are, so no decoding is needed (error-preserving ablation, Marks
        et al. 2024).

        Args:
            x: Clean activations of the site that it reads, one a row; σ is its frame's.
            feature: Index j of the feature replaced in each row.
            activation: Its clean activation a_j.
            replacement: What it becomes, c.
        """
        return self.steps(x, replacement - activation, lambda one: one.rows(feature))

    def steps(
        self, x: Float[Tensor, "*n d_in"], by: Float[Tensor, "*n"], rows: Callable[[Decoder], Float[Tensor, "*n d_out"]]
    ) -> dict[Site, Float[Tensor, "*n d_out"]]:
        """σ·by·W_dec[j] at each site that it writes, of rows that are told of each decoder; see `edit`."""
        return {one.site: self.lands.step(by.unsqueeze(-1) * rows(one), x) for one in self.decoders}


class Reconstructions:
    """What dictionaries say of the sites that they write, taken in one by one, so that none has to stay.

    Of a site the rest, y − ŷ, is its *error*.
    """

    def __init__(self) -> None:
        self._said: dict[Site, Tensor] = {}
        self._lands: dict[Site, Frame] = {}

    def add(self, dictionary: Dictionary, fires: Active, x: Float[Tensor, "n d_in"]) -> None:
        """Take one in: what is active of it at each place, a row of x, which it reads."""
        for one in dictionary.decoders:
            said = one.summed(fires.place, fires.feature, fires.value, len(x))
            said = said + dictionary.constant(x) if one.site == dictionary.writes else said
            self._said[one.site] = self._said[one.site] + said if one.site in self._said else said
            self._lands[one.site] = dictionary.lands

    @property
    def sites(self) -> list[Site]:
        """Of which something was said, in the model's order."""
        return sorted(self._said, key=lambda site: site.order)

    def of(self, site: Site, y: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """ŷ of what is at a site."""
        return self._lands[site].put_back(self._said[site], y)


def reconstructed(
    site: Site,
    dictionaries: Mapping[Site, Dictionary],
    fires: Mapping[Site, Active],
    x: Mapping[Site, Float[Tensor, "n _"]],
    y: Float[Tensor, "n d_out"],
) -> Float[Tensor, "n d_out"]:
    """What dictionaries say together of what is at a site that some of them write.

    Args:
        site: The site.
        dictionaries: By the site that each reads; those that don't write here say nothing.
        fires: What is active of each, by place: row of x and y.
        x: What each reads.
        y: What is there.
    """
    said = Reconstructions()
    for reads, one in dictionaries.items():
        if site in one.written:
            said.add(one, fires[reads], x[reads])
    return said.of(site, y)
