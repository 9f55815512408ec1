"""Sparse autoencoders, trained side by side on activations streamed from the language model.

    standard  a = relu(v W_enc + b_enc), v = x − b_dec;                      x̂ = a W_dec + b_dec
    topk      the same on (x − mean)/(std + 1e-5), the k largest kept;       x̂ = std·(a W_dec + b_dec) + mean

Loss: the squared error of x̂ in units of the activation's variance, for `standard` plus a penalty
λ Σ_j s·log(1 + a_j/s) / d_in. With large s that is L1 (Bricken et al. 2023); s falls during training, so that strong
activations are hardly shrunk (reweighted L1, Candès et al. 2008). λ follows a controller that steers the mean L0 to
its target. Of a standard dictionary too only the largest activations are decoded in training, three times as many as
it aims at: nearly all that are not zero, at half the cost. Decoder rows have unit norm. A latent that has not fired for
`patience` steps restarts in the direction of a badly reconstructed activation (resampling, Bricken et al. 2023).

SAELens's own trainer is not used: it wants a HookedTransformer and an older TransformerLens than the package does.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from circuitcli.core.sites import Site


@dataclass(frozen=True)
class Recipe:
    """What every dictionary is trained with.

    Attributes:
        steps: Of the optimiser, on reconstruction and sparsity.
        tuning_steps: Of the standard ones thereafter, on what the model says as well.
        rows: Rows of text a step.
        d_sae: Latents.
        k: Latents of topk that may fire at a position.
        l0: The mean number of latents that standard ones aim at.
        l0_transcoder: The mean number that fire in a per-layer transcoder, which has `d_sae` too.
        d_clt, l0_clt: The same of each layer of the cross-layer transcoder.
        transcoder_steps: Of all transcoders.
        transcoder_tuning_steps: Of them thereafter, on what the model says as well.
        rate: Peak learning rate.
        patience: Steps without firing after which a latent restarts.
        minutes, tuning_minutes, transcoder_minutes: Where they would be over first, the schedule is run through faster.
    """

    steps: int
    tuning_steps: int = 700
    rows: int = 16
    d_sae: int = 1024
    k: int = 16
    l0: float = 30.0
    l0_transcoder: float = 24.0
    d_clt: int = 768
    l0_clt: float = 20.0
    transcoder_steps: int = 700
    transcoder_tuning_steps: int = 250
    rate: float = 1.5e-3
    patience: int = 150
    minutes: float = math.inf
    tuning_minutes: float = math.inf
    transcoder_minutes: float = math.inf


class Autoencoder(nn.Module):
    """One autoencoder in training. Standard ones work on activations times `scale`, so that their variance is 1."""

    def __init__(self, site: Site, sample: Tensor, recipe: Recipe) -> None:
        """Decoder rows start as random directions, the encoder as the decoder's transpose, b_dec as the mean of
        the `sample` float32 [n, d_in].
        """
        super().__init__()
        self.site, self.recipe = site, recipe
        self.topk = site.name != "resid_post"
        spread = (sample - sample.mean(0)).pow(2).mean().sqrt().item()
        self.variance = spread**2 if self.topk else 1.0
        self.scale = 1.0 if self.topk else 1.0 / spread
        d_in = sample.shape[1]
        directions = functional.normalize(torch.randn(recipe.d_sae, d_in), dim=1)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions.T * (1.0 if self.topk else 2 * d_in / recipe.d_sae))
        self.b_enc = nn.Parameter(torch.zeros(recipe.d_sae))
        self.b_dec = nn.Parameter(self._prepare(sample)[0].mean(0))
        self.penalty, self.gain = 1.5, 0.006
        self.l0 = math.nan
        self.idle = torch.zeros(recipe.d_sae, dtype=torch.int64)
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def _prepare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder sees of x [n, d_in], and the factor [n, 1] or [] that takes it back to x's units."""
        if not self.topk:
            return x * self.scale, torch.tensor(1.0)
        centred = x - x.mean(-1, keepdim=True)
        std = centred.std(-1, keepdim=True)
        return centred / (std + 1e-5), std

    def loss(self, x: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """The loss of x [n, d_in], a scalar, and x̂ [n, d_in]; adapts the penalty and remembers which latents fired."""
        v, unit = self._prepare(x)
        pre = (v - self.b_dec) @ self.W_enc + self.b_enc
        reach = self.recipe.k if self.topk else min(round(3 * self.recipe.l0), len(self.b_enc))
        values, indices = pre.topk(reach, dim=-1, sorted=False)
        values = values.relu()
        self._note(torch.bincount(indices[values > 0], minlength=len(self.b_enc)) > 0)
        self.l0 = (values > 0).sum().item() / len(x)
        x_hat = functional.embedding_bag(indices, self.W_dec, per_sample_weights=values, mode="sum") + self.b_dec
        difference = unit * (v - x_hat)
        self.error = difference.detach()
        loss = difference.pow(2).mean() / self.variance
        if not self.topk:
            loss = loss + self._sparsity(values, progress)
        return loss, x - difference / self.scale

    def _sparsity(self, a: Tensor, progress: float) -> Tensor:
        """λ Σ_j s·log(1 + a_j/s) / d_in, with s from 10 down to 0.1 over the first half of training (units of a)."""
        excess = min(8.0, max(1 / 8, self.l0 / self.recipe.l0))
        self.penalty *= math.pow(excess, self.gain)
        softness = 10.0 * math.pow(0.1 / 10.0, min(1.0, max(0.0, (progress - 0.05) / 0.5)))
        warm = min(1.0, progress / 0.03)
        return warm * self.penalty * softness * (a / softness).log1p().sum(1).mean() / len(self.b_dec)

    def _note(self, fired: Tensor) -> None:
        self.idle = torch.where(fired, 0, self.idle + 1)

    @torch.no_grad()
    def keep_unit_norm(self) -> None:
        """Scale the decoder's rows back to length 1."""
        self.W_dec.copy_(functional.normalize(self.W_dec, dim=1))

    @torch.no_grad()
    def resample(self, x: Tensor, optimiser: torch.optim.Optimizer) -> int:
        """Restart the idle latents at activations x [n, d_in] drawn by their squared error; returns how many."""
        idle = (self.idle >= self.recipe.patience).nonzero().flatten()
        if len(idle) == 0:
            return 0
        chosen = torch.multinomial(self.error.pow(2).sum(1), len(idle), True, generator=self.generator)
        directions = functional.normalize(self.error[chosen], dim=1)
        alive = self.W_enc.norm(dim=0)[self.idle < self.recipe.patience].mean()
        self.W_dec[idle] = directions
        self.W_enc[:, idle] = directions.T * alive * (1.0 if self.topk else 0.5)
        self.b_enc[idle] = 0.0
        for parameter, index in ((self.W_dec, idle), (self.W_enc, (slice(None), idle)), (self.b_enc, idle)):
            state = optimiser.state.get(parameter, {})
            for name in {"exp_avg", "exp_avg_sq"} & state.keys():
                state[name][index] = 0.0
        self.idle[idle] = 0
        return len(idle)

    def weights(self) -> dict[str, Tensor]:
        """The tensors as shipped: float16, in the units of the activation itself."""
        factor = 1.0 / self.scale
        tensors = {"W_enc": self.W_enc, "W_dec": self.W_dec, "b_enc": self.b_enc * factor, "b_dec": self.b_dec * factor}
        return {name: t.detach().half().contiguous() for name, t in tensors.items()}

    def config(self, context: int) -> dict[str, object]:
        """cfg.json in the form of SAELens 6."""
        d_in, d_sae = self.W_enc.shape
        return {
            "architecture": "topk" if self.topk else "standard",
            **({"k": self.recipe.k} if self.topk else {}),
            "d_in": d_in,
            "d_sae": d_sae,
            "dtype": "float16",
            "apply_b_dec_to_input": True,
            "normalize_activations": "layer_norm" if self.topk else "none",
            "reshape_activations": "none",
            "rescale_acts_by_decoder_norm": False,
            "metadata": {
                "sae_lens_version": "6.54.12",  # whose format this is; without it SAELens reads an older one
                "model_name": "circuitcli-demo",
                "hook_name": self.site.hook,
                "prepend_bos": True,
                "context_size": context,
                "neuronpedia_id": None,
                "model_from_pretrained_kwargs": {"center_writing_weights": False},
            },
        }
