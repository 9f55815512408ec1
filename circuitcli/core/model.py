"""What a model must offer to be studied: shapes, a clean pass, and a pass that resumes from an edited site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.edits import Edits
from circuitcli.core.shape import BlockSizes, ModelShape
from circuitcli.core.sites import Site

Activations = dict[Site, Float[Tensor, "b t _"]]  # z is d_z wide, all others d_model


@dataclass(frozen=True, eq=False)
class Addition:
    """The edit that adds δ to the activations of one site; δ is zero where nothing changes.

    One feature's δ is of rank one and known beforehand, so that a pass can resume from it; other edits are `Edits`.
    A feature that writes several sites adds to others what is known beforehand as well.

    Attributes:
        site: Where the pass resumes.
        delta: What is added there.
        further: What is added to what sites of later blocks are by then.
    """

    site: Site
    delta: Float[Tensor, "b t d"]
    further: Mapping[Site, Float[Tensor, "b t _"]] = field(default_factory=dict)

    @classmethod
    def of(cls, deltas: Mapping[Site, Float[Tensor, "b t _"]]) -> Addition:
        """All of these; the pass resumes at the first site."""
        first, *others = sorted(deltas, key=lambda site: site.order)
        return cls(first, deltas[first], {site: deltas[site] for site in others})


@dataclass(frozen=True, eq=False)
class Places:
    """A few positions of some sequences of a pass, at which to compute again: `pos[i, j]` of sequence `seq[i]`.

    They see their sequence's earlier positions as they were on the clean pass, and nothing of each other; but where
    they are chained, `pos[i]` are positions that follow each other, and each sees those before it as they are now.
    """

    seq: Int[Tensor, " g"]
    pos: Int[Tensor, "g c"]
    chained: bool = False


class NormWeights(NamedTuple):
    """A norm's gain and bias, float32: gain ⊙ (x − mean) / std + bias; of RMS norm the bias is 0."""

    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]


@dataclass(frozen=True)
class Fixed:
    """What a pass takes from a clean pass of the same prompt instead of computing it: constants, forward and backward.

    Attributes:
        patterns: Attention patterns, the weights after the softmax.
        norms: What norms divide by (std or rms), all of them: of blocks, the final one, those of queries and keys.
        activations: act(z) / z of MLPs' activation functions, and of the two factors of a gate each has half of the
            gradient. Values stay as they are: these rules are those of the backward pass.
    """

    patterns: bool = False
    norms: bool = False
    activations: bool = False


RELP = Fixed(norms=True, activations=True)  # Jafari et al. 2025, arXiv 2508.21258
FROZEN = Fixed(patterns=True, norms=True)  # MLPs aside, all that is behind an edit is linear in it


@dataclass(frozen=True, eq=False)
class Pass:
    """What was read on one pass through the model.

    Attributes:
        sites: Activations of the sites asked for; z has its heads flattened.
        final: The stream after the last block, if the pass went that far.
        calls: How the model called its blocks, and the keys and values there, for `resume`; opaque to everybody else.
        kept_bytes: The memory that `calls` holds.
    """

    sites: Activations
    final: Float[Tensor, "b t d"] | None
    calls: Any
    kept_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        tensors = [*self.sites.values(), *([] if self.final is None else [self.final])]
        return self.kept_bytes + sum(tensor.nbytes for tensor in tensors)


@runtime_checkable
class Model(Protocol):
    """A decoder-only transformer with readable and editable sites."""

    @property
    def shape(self) -> ModelShape:
        """Its sizes."""
        ...

    @property
    def sizes(self) -> BlockSizes:
        """Those of its blocks."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it is, and what it reads and gives."""
        ...

    @property
    def resumes_at_places(self) -> bool:
        """Whether `resume` takes `places`."""
        ...

    @property
    def whole_because(self) -> str:
        """Why it doesn't; empty if it does."""
        ...

    def run(
        self,
        tokens: Int[Tensor, "b t"],
        read: Sequence[Site],
        *,
        final: bool = False,
        edits: Edits | None = None,
        keep: int | None = None,
        until: int | None = None,
    ) -> Pass:
        """One pass over whole sequences, edited by hooks at any number of sites; see `core.edits`.

        An edited site is given its activations in the model's dtype, and is read as its edit leaves it. Gradients pass,
        of what edits bring in: the model's own parameters have none.

        The pass stops after the last block that the sites read need (see `core.sites.last_block`), or after the block
        `until`, unless `final` asks for the stream after the last one. Keys and values of the blocks from `keep` on
        stay, for `resume` at places.

        Raises:
            ValueError: An edit of resid_mid in a parallel block, which has none.
        """
        ...

    def bases(self, site: Site) -> tuple[Site, ...]:
        """The sites whose clean activations `resume` needs in order to resume from an edit at `site`."""
        ...

    def resume(
        self,
        clean: Pass,
        base: Mapping[Site, Tensor],
        edit: Addition,
        read: Sequence[Site],
        *,
        final: bool = False,
        places: Places | None = None,
    ) -> Pass:
        """The rest of a pass after an edit, computing nothing before the edited site.

        Args:
            clean: A clean pass over sequences of the same padded length, which went at least as far as this one goes.
            base: Clean activations of `bases(edit.site)`, one row for each row of the edit.
            edit: What is added at the site, and at later ones.
            read: Sites downstream of the edit.
            final: Whether to go on to the stream after the last block.
            places: If given, `base` and the edit hold these positions only, [g, c, d], and so does the result: exact
                where nothing before them is edited, since attention looks back only.
        """
        ...

    def fixed(self, tokens: Int[Tensor, "1 t"], what: Fixed) -> AbstractContextManager[None]:
        """While it lasts, every pass over this prompt, in any number of rows, has these constants of a clean one.

        `logits` is then of rows that all stand for the prompt's last position. What was fixed before and isn't named
        stays so; `Fixed()` changes nothing.

        Raises:
            InputError: The model has a part whose constants aren't known (mixtures of experts, ...), and which.
        """
        ...

    def z_offset(self, layer: int) -> Float[Tensor, " d_z"]:
        """b_V + ln1.b·W_V, head by head: what z has here, and has not once a model's weights were processed.

        Attention patterns sum to one, so value biases (and the first norm's bias, which folding puts into them) go
        through attention unchanged; TransformerLens's processing moves them behind W_O. float32.
        """
        ...

    def norm_weights(self, layer: int) -> NormWeights:
        """Gain and bias of the norm before an MLP, as they multiply and are added in fact (Gemma's gain is 1 + w).

        Raises:
            InputError: There is no norm before the MLP, or it is of no kind that has these.
        """
        ...

    def positions(self, tokens: Int[Tensor, "1 t"]) -> Float[Tensor, "t d"]:
        """What positions add to what the first block reads: 0 where attention alone knows them. float32."""
        ...

    def logits(self, final: Float[Tensor, "n d"], pos: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n v"]:
        """Final norm and the causal model's own head, with all that it scales or caps; float32. Gradients pass.

        Where norms are fixed, `pos` says for which position of the prompt each row stands; None: all for the last one.
        """
        ...

    def unembedded(self, final: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """The same before the head scales or caps anything: linear behind the final norm."""
        ...
