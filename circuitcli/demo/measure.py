"""What the shipped files achieve on held-out text: `python -m circuitcli.demo.measure` exits with 1 if a bar is missed.

Every number is over positions ≥ 1 (the token at 0 is BOS) of the passages of `text.jsonl`, in nats:

    FVU        Σ|x − x̂|² / Σ|x − mean|²        fraction of variance unexplained, about the mean over positions
    L0         mean number of latents above zero
    dead       share of latents that never fire
    recovered  (CE_zero − CE_spliced) / (CE_zero − CE_clean)    x̂, or 0, put in place of x at all positions ≥ 1

The bigram to compare with, p(b|a) = (c(ab) + m·p(b)) / (c(a) + m) with p(b) from add-one counts, has its m chosen on
the same held-out text, in its own favour; its number is kept in `training.json`, since its counts are not shipped.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel

from circuitcli.core.activations.standard import Relu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame
from circuitcli.core.sites import Site
from circuitcli.demo import corpus, language_model, measure_transcoders
from circuitcli.demo.activations import SITES, harvest, hooked, sites
from circuitcli.demo.measure_transcoders import FOLDERS, SetQuality
from circuitcli.demo.rows import Rows, cross_entropy, rows_of

OPENING = ("In the beginning, God created the", " heavens")
TRAINING = "training.json"
_CHUNK = 8192


@dataclass(frozen=True)
class Quality:
    """One dictionary's numbers, as the module's docstring defines them."""

    site: Site
    fvu: float
    l0: float
    dead: float
    recovered: float


@dataclass(frozen=True)
class Bar:
    """One requirement: its words, the measured number, and whether the number meets it."""

    what: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    bars: list[Bar]
    dictionaries: list[Quality]
    transcoders: list[SetQuality]


def bigram_cross_entropy(stream: corpus.Stream, rows: Rows, size: int) -> float:
    """The interpolated bigram's mean −log p at the same positions, with the m of 2⁰ … 2¹² that is best there. Nats."""
    pairs = torch.bincount(stream.tokens[:-1] * size + stream.tokens[1:], minlength=size * size).view(size, size)
    firsts, single = pairs.sum(1).double(), torch.bincount(stream.tokens, minlength=size).double()
    unigram = (single + 1) / (single + 1).sum()
    target = rows.counted()[:, 2:]
    a, b = rows.tokens[:, 1:-1][target], rows.tokens[:, 2:][target]
    together, alone = pairs[a, b].double(), firsts[a]
    tried = (((together + m * unigram[b]) / (alone + m)).log().mean() for m in (2.0**power for power in range(13)))
    return -max(tried).item()


def load_dictionary(folder: Path) -> tuple[Site, Dictionary]:
    """A shipped SAELens folder, its float16 numbers held in float32."""
    config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    weights = {name: t.float() for name, t in load_file(folder / "sae_weights.safetensors").items()}
    _, layer, hook = config["metadata"]["hook_name"].split(".")
    site = Site(int(layer), hook.removeprefix("hook_"))
    sae = Dictionary(
        reads=site,
        writes=site,
        activation=TopK(config["k"]) if config["architecture"] == "topk" else Relu(),
        w_enc=weights["W_enc"],
        b_enc=weights["b_enc"],
        w_dec=weights["W_dec"],
        b_dec=weights["b_dec"],
        frame=Frame(config["normalize_activations"]),
    )
    return site, sae


def quality(model: GPT2LMHeadModel, site: Site, sae: Dictionary, rows: Rows, clean_nats: float) -> Quality:
    """Measure one dictionary on all rows."""
    x = torch.cat([harvest(model, b.tokens, [site])[site][b.counted()] for b in rows.batches()])
    left, fired, active = 0.0, torch.zeros(sae.d_sae), 0.0
    for i in range(0, len(x), _CHUNK):
        part = x[i : i + _CHUNK]
        a = sae.encode(part)
        left += (part - sae.decode(a, part)).pow(2).sum().item()
        fired += (a > 0).sum(0)
        active += (a > 0).sum().item()
    zero = _edited(model, site, rows, torch.zeros_like)
    spliced = _edited(model, site, rows, lambda v: sae.decode(sae.encode(v), v))
    return Quality(
        site=site,
        fvu=left / (x - x.mean(0)).pow(2).sum().item(),
        l0=active / len(x),
        dead=(fired == 0).float().mean().item(),
        recovered=(zero - spliced) / (zero - clean_nats),
    )


def measure(folder: Path, most: int | None = None) -> Report:
    """Measure the files in a folder laid out like the demo, on its first `most` passages (all if None)."""
    model = language_model.load(folder / "model")
    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    documents = corpus.read(folder / "text.jsonl")[:most]
    rows = rows_of(tokenizer, documents, model.config.n_positions)
    clean_nats = cross_entropy(model, rows)
    found = [load_dictionary(folder / "saes" / site.hook) for site in sites(model.config.n_layer)]
    qualities = [quality(model, site, sae, rows, clean_nats) for site, sae in found]
    bigram_nats = json.loads((folder / TRAINING).read_text(encoding="utf-8"))["bigram_nats"]
    sets = {name: measure_transcoders.load(folder / name) for name in FOLDERS}
    replacing = [measure_transcoders.quality(name, model, one, rows, clean_nats) for name, one in sets.items()]
    bars = [
        *_model_bars(model, tokenizer, clean_nats, bigram_nats),
        *_dictionary_bars(qualities),
        *(bar for one in replacing for bar in _transcoder_bars(one)),
    ]
    return Report(bars, qualities, replacing)


def table(report: Report) -> str:
    """The report in Markdown."""
    lines = ["| Required | Measured | |", "|---|---|---|"]
    lines += [f"| {bar.what} | {bar.measured} | {'met' if bar.met else '**missed**'} |" for bar in report.bars]
    lines += ["", "| Dictionary | FVU | mean L0 | dead | recovered |", "|---|---|---|---|---|"]
    for q in report.dictionaries:
        lines.append(f"| `{q.site.hook}` | {q.fvu:.3f} | {q.l0:.1f} | {q.dead:.1%} | {q.recovered:.3f} |")
    lines += [
        "",
        "| Stands for | FVU | mean L0 | dead | recovered | first guess the same |",
        "|---|---|---|---|---|---|",
    ]
    for one in report.transcoders:
        for layer in one.layers:
            numbers = f"{layer.fvu:.3f} | {layer.l0:.1f} | {layer.dead:.1%} | {layer.recovered:.3f}"
            lines.append(f"| `{one.name}`: MLP {layer.layer} | {numbers} | |")
        lines.append(f"| `{one.name}`: all at once | | | | {one.recovered:.3f} | {one.agreement:.1%} |")
    return "\n".join(lines) + "\n"


def _edited(model: GPT2LMHeadModel, site: Site, rows: Rows, edit: Callable[[Tensor], Tensor]) -> float:
    with hooked(model, site, lambda x: torch.cat([x[:, :1], edit(x[:, 1:])], dim=1)):
        return cross_entropy(model, rows)


@torch.no_grad()
def _model_bars(model: GPT2LMHeadModel, tokenizer: Tokenizer, clean_nats: float, bigram_nats: float) -> list[Bar]:
    prompt, wanted = OPENING
    ids = torch.tensor([[corpus.BOS_ID, *tokenizer.encode(prompt).ids]])
    first = tokenizer.decode([int(model(ids, attention_mask=torch.ones_like(ids)).logits[0, -1].argmax())])
    gap = bigram_nats - clean_nats
    words = f"{clean_nats:.3f} nats, bigram {bigram_nats:.3f}: {gap:.3f} below"
    return [
        Bar("cross-entropy at least 0.5 nat below an interpolated bigram's", words, gap >= 0.5),
        Bar(f"“{prompt}” → “{wanted}” (top-1)", f"“{first}”", first == wanted),
    ]


def _dictionary_bars(qualities: Sequence[Quality]) -> list[Bar]:
    stream = [q for q in qualities if q.site.name == "resid_post"]
    fvu, l0 = max(q.fvu for q in stream), max(q.l0 for q in stream)
    kept = min(q.recovered for q in stream)
    dead = max(q.dead for q in qualities)
    bars = [
        Bar("resid_post: FVU at most 0.20 in every layer", f"worst {fvu:.3f}", fvu <= 0.20),
        Bar("resid_post: mean L0 at most 32 in every layer", f"worst {l0:.1f}", l0 <= 32),
        Bar("resid_post: recovered at least 0.95 in every layer", f"worst {kept:.3f}", kept >= 0.95),
    ]
    for site in SITES[:2]:
        values = [q.recovered for q in qualities if q.site.name == site]
        mean, worst = math.fsum(values) / len(values), min(values)
        met = mean >= 0.85 and worst >= 0.7
        words = f"mean {mean:.3f}, worst {worst:.3f}"
        bars.append(Bar(f"{site}: recovered at least 0.85 on average, none below 0.7", words, met))
    return [*bars, Bar("at most 20% of latents dead in every dictionary", f"worst {dead:.1%}", dead <= 0.2)]


def _transcoder_bars(one: SetQuality) -> list[Bar]:
    fvu, dead = max(layer.fvu for layer in one.layers), max(layer.dead for layer in one.layers)
    fewest, most = min(layer.l0 for layer in one.layers), max(layer.l0 for layer in one.layers)
    return [
        Bar(f"{one.name}: FVU at most 0.32 in every layer", f"worst {fvu:.3f}", fvu <= 0.32),
        Bar(
            f"{one.name}: mean L0 from 10 to 40 in every layer",
            f"{fewest:.1f} to {most:.1f}",
            fewest >= 10 and most <= 40,
        ),
        Bar(f"{one.name}: at most 20% of latents dead in every layer", f"worst {dead:.1%}", dead <= 0.2),
        Bar(
            f"{one.name}: recovered at least 0.93 where they stand for all MLPs at once",
            f"{one.recovered:.3f}",
            one.recovered >= 0.93,
        ),
    ]


def main() -> None:
    """Measure a folder, print the table, and put it into the folder's README between its two markers."""
    parser = argparse.ArgumentParser(prog="python -m circuitcli.demo.measure", description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="default: the demo itself")
    parser.add_argument("--passages", type=int, help="measure on so many only (the README then stays as it is)")
    chosen = parser.parse_args()
    report = measure(chosen.folder, chosen.passages)
    print(table(report), end="")
    readme = chosen.folder / "README.md"
    if chosen.passages is None and readme.exists():
        before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- measured -->\n")
        after = rest.partition("<!-- /measured -->\n")[2]
        readme.write_text(f"{before}<!-- measured -->\n{table(report)}<!-- /measured -->\n{after}", encoding="utf-8")
    raise SystemExit(0 if all(bar.met for bar in report.bars) else 1)


if __name__ == "__main__":
    main()
