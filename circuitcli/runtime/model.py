"""A model behind TransformerLens's TransformerBridge: the only module that works with transformer_lens.

Sites are read by TransformerLens's hooks. A pass resumes from an edit by calling the model's own blocks again: the
rest of the edited block by its parts (attention isn't computed again for an edit behind it), later blocks whole, with
the arguments that the model itself gave them on the clean pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from circuitcli.core.edits import Edits, adding_all
from circuitcli.core.model import Activations, Addition, Fixed, NormWeights, Pass, Places
from circuitcli.core.shape import BlockSizes, ModelShape
from circuitcli.core.sites import Site, last_block
from circuitcli.errors import CircuitError, InputError
from circuitcli.runtime import agreement, constants, fixed, norms, weights
from circuitcli.runtime.agreement import Disagreement
from circuitcli.runtime.attention import Behind, Kept, native, through_the_door, using
from circuitcli.runtime.calls import Calls, recorder
from circuitcli.runtime.checkpoint import Checkpoint
from circuitcli.runtime.device import Runtime, out_of_memory
from circuitcli.runtime.head import Head
from circuitcli.runtime.hooks import hooks as hooks_of
from circuitcli.runtime.unfit import unfit
from circuitcli.runtime.verdicts import Verdicts


class _Stop(Exception):
    """Ends a pass once all that was asked for has been read."""


class BridgeModel:
    """A `core.model.Model` over a TransformerBridge."""

    def __init__(self, bridge: Any, shape: ModelShape, sizes: BlockSizes, runtime: Runtime) -> None:
        self._bridge = bridge
        self._shape = shape
        self.sizes = sizes
        self.runtime = runtime
        self.whole_because = "it wasn't tried"
        self._head = Head(bridge, shape.n_layers)

    @property
    def shape(self) -> ModelShape:
        """Its sizes."""
        return self._shape

    @property
    def resumes_at_places(self) -> bool:
        """Whether nothing speaks for whole sequences."""
        return not self.whole_because

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.runtime.device

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
        """One pass over whole sequences; see `core.model.Model.run`."""
        edits = edits or {}
        if self._shape.parallel and any(site.name == "resid_mid" for site in edits):
            raise ValueError("a parallel block has no resid_mid to edit")
        sites: Activations = {}
        calls = Calls({}, Kept(self._shape.n_layers if keep is None else keep), tokens.shape[1])
        ends: list[Tensor] = []
        last = self._shape.n_layers - 1 if final else max(last_block(read), -1 if until is None else until)

        def stop(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
            ends.append(args[0])
            raise _Stop

        with ExitStack() as hooks:
            for layer, block in enumerate(self._bridge.blocks):
                hooks.enter_context(_handle(block.register_forward_pre_hook(recorder(calls, layer), with_kwargs=True)))
            stops = [*self._bridge.blocks, self._bridge.ln_final]
            hooks.enter_context(_handle(stops[last + 1].register_forward_pre_hook(stop, prepend=True)))
            hooks.enter_context(self._bridge.hooks(fwd_hooks=hooks_of(edits, read, sites)))
            hooks.enter_context(using(calls.kept))
            with suppress(_Stop):
                self._bridge(tokens, return_type="logits", use_cache=False)
        _note_end(sites, read, last, ends[0], edits)
        return Pass(sites, ends[0] if final else None, calls, calls.kept.nbytes)

    def bases(self, site: Site) -> tuple[Site, ...]:
        """Clean activations that `resume` starts from."""
        behind = {
            "resid_pre": ("resid_pre",),
            "z": ("z", "attn_out", "resid_post") if self._shape.parallel else ("z", "attn_out", "resid_mid"),
            "attn_out": ("resid_post",) if self._shape.parallel else ("resid_mid",),
            "resid_mid": ("resid_mid",),
            "mlp_in": ("mlp_in", "mlp_out", "resid_post") if self._shape.parallel else ("mlp_in", "resid_mid"),
            "mlp_out": ("resid_post",),
            "resid_post": ("resid_post",),
        }
        return tuple(Site(site.layer, name) for name in behind[site.name])

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
        """The rest of a pass after an edit; see `core.model.Model.resume`."""
        site, delta = edit.site, edit.delta.to(self.runtime.dtype)
        sites: Activations = {}
        x: Tensor
        last = self._shape.n_layers - 1 if final else last_block(read)
        if last < site.layer:  # nothing behind the site is asked for
            return Pass(sites, None, clean.calls)
        keys = None if places is None else Behind(clean.calls.kept, places.seq)
        later = adding_all({s: more for s, more in edit.further.items() if s.layer <= last})
        assert all(s.layer > site.layer for s in later), "what is added further is added in later blocks"
        with self._bridge.hooks(fwd_hooks=hooks_of(later, read, sites)), using(keys), constants.at(places):
            if site.name == "resid_pre":
                x = self._block(site.layer, base[site] + delta, clean.calls, places)
            else:
                x = self._rest_of_block(site, base, delta, sites, read)
            for layer in range(site.layer + 1, last + 1):
                x = self._block(layer, x, clean.calls, places)
        _note_end(sites, read, last, x, {})
        return Pass(sites, x if final else None, clean.calls)

    def positions(self, tokens: Int[Tensor, "1 t"]) -> Float[Tensor, "t d"]:
        """What positions add to what the first block reads; see `core.model.Model.positions`."""
        added: list[Tensor] = []
        hook = "pos_embed.hook_out"
        if hook in self._bridge.hook_dict:
            with self._bridge.hooks(fwd_hooks=[(hook, lambda value, hook: added.append(value))]):
                self.run(tokens, [Site(0, "resid_pre")])
        none = torch.zeros(tokens.shape[1], self._shape.d_model, device=self.device)
        return added[0][0].float() if added else none

    def logits(self, final: Float[Tensor, "n d"], pos: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n v"]:
        """Final norm and the model's own head; see `core.model.Model.logits`."""
        with constants.at(_standing_for(final, pos)):
            return self._head(final)

    def unembedded(self, final: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """What the head begins with; see `core.model.Model.unembedded`."""
        with constants.at(_standing_for(final, None)):
            return self._head.unembedded(final)

    @contextmanager
    def fixed(self, tokens: Int[Tensor, "1 t"], what: Fixed) -> Iterator[None]:
        """Passes with constants of a clean one; see `core.model.Model.fixed`."""
        if what == Fixed():
            yield
            return
        with constants.using(fixed.note(self._bridge, tokens, what, self._through)):
            yield

    def _through(self, tokens: Int[Tensor, "1 t"]) -> None:
        """A pass through all that is before the head."""
        self._bridge.ln_final(self.run(tokens, [], final=True).final)

    def z_offset(self, layer: int) -> Float[Tensor, " d_z"]:
        """What the value biases add to z; see `core.model.Model.z_offset`."""
        block = self._bridge.blocks[layer]
        beta = getattr(block.ln1, "bias", None)
        beta = torch.zeros(self._shape.d_model) if beta is None else beta
        values = block.attn.v(beta.to(self.runtime.device, self.runtime.dtype).view(1, 1, -1)).flatten().float()
        heads = self._shape.d_z // self._bridge.cfg.d_head
        groups = heads * self._bridge.cfg.d_head // len(values)  # query heads that share a value
        offset: Tensor = values.view(-1, self._bridge.cfg.d_head).repeat_interleave(groups, dim=0).flatten()
        return offset

    def norm_weights(self, layer: int) -> NormWeights:
        """Gain and bias of the norm before an MLP; see `core.model.Model.norm_weights`."""
        block = self._bridge.blocks[layer]
        norm = getattr(block, "ln2", block.ln1 if self._shape.parallel else None)
        if norm is None:
            raise InputError(
                f"The MLP of layer {layer} reads the stream without a norm before it.",
                hint="Dictionaries that read a norm's output belong to other models: choose others with --release.",
            )
        like = torch.zeros(1, 1, self._shape.d_model, device=self.runtime.device, dtype=self.runtime.dtype)
        return norms.weights(norm, like, f"norm before the MLP of layer {layer}")

    def _block(self, layer: int, x: Tensor, calls: Calls, places: Places | None) -> Tensor:
        args, kwargs = calls.at(layer, places)
        out = self._bridge.blocks[layer](x, *args, **kwargs)
        after: Tensor = out[0] if isinstance(out, tuple) else out
        return after

    def _rest_of_block(
        self, site: Site, base: Mapping[Site, Tensor], delta: Tensor, sites: Activations, read: Sequence[Site]
    ) -> Tensor:
        """The stream after the edited block. Its sites that are read without their module running are noted here."""
        block, layer = self._bridge.blocks[site.layer], site.layer

        def note(name: str, value: Tensor) -> Tensor:
            if Site(layer, name) in read:
                sites[Site(layer, name)] = value
            return value

        if site.name == "z":
            attn_out = self._attention_output(block, base[site] + delta)
            delta = note("attn_out", attn_out) - base[Site(layer, "attn_out")]
        behind, added = Site(layer, "resid_post"), Site(layer, "mlp_out")
        if site.name == "mlp_in":
            mlp_out = note("mlp_out", self._mlp_output(block, base[site] + delta))
            stream = base[behind] - base[added] if self._shape.parallel else base[Site(layer, "resid_mid")]
            return note("resid_post", stream + mlp_out)
        if behind in self.bases(site):
            return note("resid_post", base[behind] + delta)
        mid = note("resid_mid", base[Site(layer, "resid_mid")] + delta)
        return note("resid_post", mid + note("mlp_out", self._mlp_output(block, _mlp_input(block, mid))))

    @staticmethod
    def _attention_output(block: Any, z: Tensor) -> Tensor:
        out: Tensor = block.attn.o(z)
        return _scaled(block, block.ln1_post(out) if hasattr(block, "ln1_post") else out)

    @staticmethod
    def _mlp_output(block: Any, mlp_in: Tensor) -> Tensor:
        out: Tensor = block.mlp(mlp_in)
        return _scaled(block, block.ln2_post(out) if hasattr(block, "ln2_post") else out)


def _standing_for(final: Float[Tensor, "n d"], pos: Int[Tensor, " n"] | None) -> Places:
    where = final.new_full((len(final),), -1, dtype=torch.long) if pos is None else pos
    return Places(final.new_zeros(1, dtype=torch.long), where.unsqueeze(0))


def _mlp_input(block: Any, mid: Tensor) -> Tensor:
    """What the MLP reads of the stream; some norm what it adds to the stream alone (OLMo 2)."""
    found: Tensor = block.ln2(mid) if hasattr(block, "ln2") else mid
    return found


def _scaled(block: Any, out: Tensor) -> Tensor:
    """What a block adds to the stream of what a part of it gives: Granite's scale it."""
    scale = getattr(block, "residual_contribution_scale", 1.0)
    return out if scale == 1.0 else out * scale


def load(checkpoint: Checkpoint, runtime: Runtime) -> BridgeModel:
    """Load a model with its weights as they are: nothing is folded or centred.

    It is compared with plain transformers once for each content, versions, dtype and device; see `agreement`.

    Raises:
        InputError: Its files don't make a model, or make one that is read wrongly or not at all.
    """
    return bridged(weights.load(checkpoint, runtime), checkpoint, runtime, checkpoint.identity())


def bridged(loaded: Any, checkpoint: Checkpoint, runtime: Runtime, content: str | None = None) -> BridgeModel:
    """A model of transformers, whose configuration lies in the checkpoint's folder, behind a bridge that was tried.

    Args:
        loaded: The model, as transformers makes it.
        checkpoint: Its name, folder and shape.
        runtime: Where it is.
        content: What identifies its weights, by which it is known once it was tried; None: it is tried each time.

    Raises:
        InputError: TransformerLens can't bridge it, or it is not the same behind the bridge.
    """
    verdicts = Verdicts(content, runtime)
    known = verdicts.read()
    with _refusing(checkpoint.name):
        expected = agreement.reference(loaded, checkpoint.shape) if known is None else None
        sizes = weights.sizes(loaded)  # of its own modules, before the bridge takes their place
        model = BridgeModel(_bridge(loaded, checkpoint, runtime), checkpoint.shape, sizes, runtime)
        if expected is not None:
            agreement.check(model, expected)
            known = agreement.trouble_at_places(model)
    assert known is not None
    verdicts.write(known)
    model.whole_because = known
    return model


def _bridge(loaded: Any, checkpoint: Checkpoint, runtime: Runtime) -> Any:
    through_the_door(weights.fused(loaded))
    try:
        bridge = TransformerBridge.boot_transformers(
            str(checkpoint.folder),
            device=str(runtime.device),
            dtype=runtime.dtype,
            trust_remote_code=False,
            hf_model=loaded,
            tokenizer=_stand_in(),
        )
    except (OSError, ValueError) as error:  # an architecture that it doesn't know
        raise unfit(checkpoint.name, str(error).split(". ")[0]) from None  # not the list of those that it knows
    through_the_door(loaded)  # again: the bridge has chosen another
    for block in bridge.blocks:
        native(block.attn)
    norms.native(bridge)
    bridge.eval()
    for parameter in bridge.parameters():
        parameter.requires_grad_(False)
    return bridge


def _stand_in() -> Any:
    """A tokenizer of one word. The bridge is given ids, and would read a model's own by rules of its own."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")), unk_token="?")


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Whatever other libraries raise at a model that is new to us says why it can't be studied."""
    try:
        yield
    except Disagreement as difference:
        raise InputError(
            f"The model {name} {difference}: its numbers would be wrong.",
            hint="Choose a model of a family that `docs/models-and-text.md` lists as exact, or report this one.",
        ) from None
    except CircuitError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise InputError(
            f"The blocks of {name} don't follow any layout that this tool knows "
            f"({type(error).__name__}: {agreement.first_line(error)}).",
            hint="Choose a model of the GPT-2, GPT-NeoX, Llama or Gemma families.",
        ) from error


def _note_end(sites: Activations, read: Sequence[Site], last: int, x: Tensor, edits: Edits) -> None:
    """The stream behind the last block that ran is the next one's input, which its hook is never shown."""
    site = Site(last + 1, "resid_pre")
    if site in read:
        sites[site] = edits[site](x).to(x.dtype) if site in edits else x


@contextmanager
def _handle(handle: Any) -> Iterator[None]:
    """A torch hook that leaves with the block."""
    try:
        yield
    finally:
        handle.remove()
