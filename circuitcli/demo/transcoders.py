"""Transcoders: sparse features that read what MLPs read and say what MLPs give, in training.

    v_l = (x_l − mean) / s_l                          what the MLP of layer l reads, its variance made 1
    a_l = act(v_l W_enc_l + b_enc_l)
    ŷ_l = Σ_i a_i W_dec[i→l] + b_dec_l + v_l W_skip_l     what it gives, in units of its spread σ_l

Of a *per-layer* transcoder i = l alone, with a skip connection (Dunefsky et al. 2024; Paulo et al. 2025); of a
*cross-layer* one i ≤ l, without (Ameisen et al. 2025). In training, of each layer those activations count that are
above θ, the l0·n-th largest of a batch of n positions; so the mean L0 is what was asked for, and no penalty shrinks
them. Across layers a stays as it is, and the mean of θ becomes the threshold of a JumpReLU (Bussmann et al. 2024);
per layer a − θ counts, and it goes into the bias of a ReLU. What a feature writes has length 1, over all layers
together.

The loss is the squared error of ŷ_l in units of the variance of y_l, summed over layers. A latent that hasn't fired for
`patience` steps restarts: it reads one input whose output is badly reconstructed, and writes what is missing there.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from circuitcli.core.sites import Site
from circuitcli.demo.dictionaries import Recipe

Activations = Mapping[Site, Tensor]
"""float32 [n, d_model] by site, the same n positions at each."""


class Encoder(nn.Module):
    """The features of one layer, and what they write at `written`, its own layer and perhaps later ones."""

    def __init__(self, layer: int, written: Sequence[int], width: int, recipe: Recipe, *, cross: bool) -> None:
        """Features read random directions; what they write is set by `Transcoders`."""
        super().__init__()
        self.layer, self.written, self.cross = layer, list(written), cross
        self.d_sae, self.l0 = (recipe.d_clt, recipe.l0_clt) if cross else (recipe.d_sae, recipe.l0_transcoder)
        self.W_enc = nn.Parameter(functional.normalize(torch.randn(width, self.d_sae), dim=0))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, len(self.written), width))
        self.b_dec = nn.Parameter(torch.zeros(width))
        self.W_skip = None if cross else nn.Parameter(torch.zeros(width, width))
        self.threshold = math.nan
        self.idle = torch.zeros(self.d_sae, dtype=torch.int64)

    def writes(self, v: Tensor) -> dict[int, Tensor]:
        """What it adds to ŷ, [n, width], of each layer that it writes; v [n, width] is what it reads.

        Remembers θ, and which features fired.
        """
        values, indices = (v @ self.W_enc + self.b_enc).topk(min(round(3 * self.l0), self.d_sae), sorted=False)
        values = values.relu()
        self.threshold = _largest(values.detach(), round(self.l0 * len(v)) + 1)
        values = values * (values > self.threshold) if self.cross else (values - self.threshold).relu()
        fired = torch.bincount(indices[values > 0], minlength=self.d_sae) > 0
        self.idle = torch.where(fired, 0, self.idle + 1)
        flat = functional.embedding_bag(indices, self.W_dec.flatten(1), per_sample_weights=values, mode="sum")
        own, *others = flat.unflatten(1, self.W_dec.shape[1:]).unbind(1)
        own = own + self.b_dec if self.W_skip is None else own + self.b_dec + v @ self.W_skip
        return dict(zip(self.written, (own, *others), strict=True))

    @torch.no_grad()
    def keep_unit_norm(self) -> None:
        """Scale what each feature writes back to length 1."""
        self.W_dec.div_(self.W_dec.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-8))


class Transcoders(nn.Module):
    """A set in training: a transcoder a layer, or the cross-layer transcoder of all layers."""

    def __init__(self, layers: Sequence[int], sample: Activations, recipe: Recipe, *, cross: bool) -> None:
        """Means and spreads are those of the `sample`; a feature begins by writing what is there where it fires."""
        super().__init__()
        self.layers, self.patience, self.cross = list(layers), recipe.patience, cross
        self.means = {site: x.mean(0) for site, x in sample.items()}
        self.spreads = {site: (x - self.means[site]).pow(2).mean().sqrt().item() for site, x in sample.items()}
        width = next(iter(sample.values())).shape[1]
        made = (
            Encoder(layer, self.layers[i:] if cross else [layer], width, recipe, cross=cross)
            for i, layer in enumerate(self.layers)
        )
        self.encoders: list[Encoder] = list(made)
        self.trained = nn.ModuleList(self.encoders)
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        self.error: dict[int, Tensor] = {}
        with torch.no_grad():
            for encoder in self.encoders:
                a = (self._seen(sample, Site(encoder.layer, "mlp_in")) @ encoder.W_enc).relu()
                there = [self._seen(sample, Site(layer, "mlp_out")) for layer in encoder.written]
                encoder.W_dec.copy_(a.T.matmul(torch.stack(there)).transpose(0, 1))
                encoder.W_enc.mul_(0.5)
        self.keep_unit_norm()

    def _seen(self, x: Activations, site: Site) -> Tensor:
        return (x[site] - self.means[site]) / self.spreads[site]

    def loss(self, x: Activations) -> Tensor:
        """The loss of a batch, a scalar."""
        parts = [encoder.writes(self._seen(x, Site(encoder.layer, "mlp_in"))) for encoder in self.encoders]
        total = torch.zeros(())
        for layer in self.layers:
            said = torch.stack([written[layer] for written in parts if layer in written]).sum(0)
            difference = self._seen(x, Site(layer, "mlp_out")) - said
            self.error[layer] = difference.detach()
            total = total + difference.pow(2).mean()
        return total

    def read(self, layer: int, x: Tensor) -> dict[int, Tensor]:
        """What the features of a layer say of x [n, d], which its MLP reads: a part of ŷ [n, d] of each layer that they
        write, in units of what MLPs give; the means are in the part of its own.
        """
        parts = self.encoders[self.layers.index(layer)].writes(
            self._seen({Site(layer, "mlp_in"): x}, Site(layer, "mlp_in"))
        )
        scaled = {later: part * self.spreads[Site(later, "mlp_out")] for later, part in parts.items()}
        return {**scaled, layer: scaled[layer] + self.means[Site(layer, "mlp_out")]}

    def keep_unit_norm(self) -> None:
        """As each of its encoders does."""
        for encoder in self.encoders:
            encoder.keep_unit_norm()

    @torch.no_grad()
    def settle(self, batches: Sequence[Activations]) -> None:
        """Set each θ to its mean over batches, for good."""
        found: list[list[float]] = []
        for x in batches:
            self.loss(x)
            found.append([encoder.threshold for encoder in self.encoders])
        for encoder, thresholds in zip(self.encoders, zip(*found, strict=True), strict=True):
            encoder.threshold = math.fsum(thresholds) / len(thresholds)

    @torch.no_grad()
    def resample(self, x: Activations, optimiser: torch.optim.Optimizer) -> None:
        """Restart the idle features at positions of the batch drawn by what is left of its squared error."""
        for encoder in self.encoders:
            idle = (encoder.idle >= self.patience).nonzero().flatten()
            if len(idle) == 0:
                continue
            left = torch.stack([self.error[layer] for layer in encoder.written], dim=1)
            chosen = torch.multinomial(left.pow(2).sum((1, 2)), len(idle), True, generator=self.generator)
            alive = encoder.W_enc[:, encoder.idle < self.patience].norm(dim=0).mean()
            read = self._seen(x, Site(encoder.layer, "mlp_in"))[chosen]
            encoder.W_enc[:, idle] = functional.normalize(read, dim=1).T * alive
            encoder.b_enc[idle] = 0.0
            encoder.W_dec[idle] = left[chosen]
            encoder.keep_unit_norm()
            for parameter, index in (
                (encoder.W_dec, idle),
                (encoder.W_enc, (slice(None), idle)),
                (encoder.b_enc, idle),
            ):
                state = optimiser.state.get(parameter, {})
                for name in {"exp_avg", "exp_avg_sq"} & state.keys():
                    state[name][index] = 0.0
            encoder.idle[idle] = 0

    def state(self) -> str:
        """The last batch in a few words."""
        parts = [
            f"{encoder.layer}: FVU about {self.error[encoder.layer].pow(2).mean():.3f}, "
            f"idle {int((encoder.idle >= self.patience).sum())}"
            for encoder in self.encoders
        ]
        return f"{'cross-layer' if self.cross else 'per layer'} {'; '.join(parts)}"

    def tensors(self) -> list[dict[str, Tensor]]:
        """Of each of its layers: W_enc [N, d], b_enc, W_dec [N, layers written, d], b_dec, and W_skip [d, d] or
        threshold [N], for activations as they are and such that what a feature writes has length 1 at activation 1.
        """
        return [
            {name: tensor.detach().half().contiguous() for name, tensor in self._unscaled(encoder).items()}
            for encoder in self.encoders
        ]

    def _unscaled(self, encoder: Encoder) -> dict[str, Tensor]:
        read, give = Site(encoder.layer, "mlp_in"), Site(encoder.layer, "mlp_out")
        w_dec = (
            encoder.W_dec * torch.tensor([self.spreads[Site(layer, "mlp_out")] for layer in encoder.written])[:, None]
        )
        length = w_dec.flatten(1).norm(dim=1)
        w_enc = encoder.W_enc / self.spreads[read]
        made = {
            "W_enc": (w_enc * length).T,
            "b_enc": (encoder.b_enc - self.means[read] @ w_enc) * length,
            "W_dec": w_dec / length[:, None, None],
            "b_dec": encoder.b_dec * self.spreads[give] + self.means[give],
        }
        if self.cross:
            return made | {"threshold": encoder.threshold * length}
        assert encoder.W_skip is not None
        skip = encoder.W_skip * (self.spreads[give] / self.spreads[read])
        return made | {
            "b_enc": made["b_enc"] - encoder.threshold * length,
            "b_dec": made["b_dec"] - self.means[read] @ skip,
            "W_skip": skip.T,
        }


def _largest(values: Tensor, k: int) -> float:
    """The k-th largest of all, or the least of them if there are fewer."""
    return values.flatten().topk(min(k, values.numel()), sorted=False).values.min().item()
