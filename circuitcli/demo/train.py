"""Make the demo anew: `python -m circuitcli.demo.train --text FILE --out DIR`.

1. Hold out documents, learn the tokenizer, write the held-out passages.
2. Train the language model, round it to float16, write it.
3. Train the autoencoders on the model as written, tune those of resid_post, round them to float16, write them.
4. Train the transcoders on it, per layer and across layers, round them to float16, write them.
5. Count the bigram and write `training.json`; `python -m circuitcli.demo.measure --folder DIR` does the rest.

With `--again FOLDER` the model, the autoencoders and the record of that folder are kept: only 4 is done.

The same seed, file, versions and number of threads give the same files, unless a limit of minutes cut training short.
Needs PyTorch 2.9 (its Muon).
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from tokenizers import Tokenizer

from circuitcli.demo import (
    corpus,
    dictionary_training,
    language_model,
    measure,
    measure_transcoders,
    transcoder_training,
)
from circuitcli.demo.dictionaries import Recipe
from circuitcli.demo.language_model import Schedule, Shape
from circuitcli.demo.rows import rows_of

OPENING_COPIES = 5
"""How often the opening document stands in each stream: the demo's prompt comes from it."""


@dataclass(frozen=True)
class Plan:
    """What to train, from which file, into which folder; of the folder `kept` all but the transcoders is taken."""

    text: Path
    out: Path
    seed: int
    shape: Shape
    schedule: Schedule
    recipe: Recipe
    kept: Path | None = None


def run(plan: Plan) -> None:
    """Write the demo's files into `plan.out`; it appears only when everything is finished."""
    aside = plan.out.with_name(plan.out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    started = time.monotonic()

    train, held = corpus.split(corpus.read(plan.text), plan.seed)
    if plan.kept:
        _copy(plan.kept, aside)
        tokenizer = Tokenizer.from_file(str(aside / "model" / "tokenizer.json"))
    else:
        tokenizer = corpus.learn_tokenizer(train, plan.shape.vocabulary)
    encoded = corpus.encode(tokenizer, train)
    streams = [corpus.join(encoded, plan.seed + i, OPENING_COPIES) for i in range(4)]
    if not plan.kept:
        passages = corpus.passages(held, tokenizer, plan.seed, longest=min(120, plan.shape.context - 8))
        corpus.write(passages, aside / "text.jsonl")
        _model_and_autoencoders(plan, aside, tokenizer, streams)
        rows = rows_of(tokenizer, passages, plan.shape.context)
        record = {
            "seed": plan.seed,
            "text_sha256": sha256(plan.text.read_bytes()).hexdigest(),
            "documents": {"training": len(train), "held_out": len(held), "passages": len(passages)},
            "training_tokens": len(streams[0].tokens),
            "bigram_nats": measure.bigram_cross_entropy(corpus.join(encoded, plan.seed), rows, plan.shape.vocabulary),
            "minutes": round((time.monotonic() - started) / 60, 1),
        }
        _record(record, aside)

    started = time.monotonic()
    shipped = language_model.load(aside / "model")
    trained = transcoder_training.train(shipped, streams, plan.recipe, plan.seed, _say)
    transcoder_training.save(trained, *(aside / name for name in measure_transcoders.FOLDERS))
    made = {
        "steps": plan.recipe.transcoder_steps,
        "tuning_steps": plan.recipe.transcoder_tuning_steps,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    _record(dict.fromkeys(measure_transcoders.FOLDERS, made), aside)
    aside.rename(plan.out)


def _model_and_autoencoders(plan: Plan, folder: Path, tokenizer: Tokenizer, streams: Sequence[corpus.Stream]) -> None:
    model = language_model.build(plan.shape, plan.seed)
    language_model.train(model, streams, plan.schedule, plan.seed, _say)
    language_model.save(model, tokenizer, folder / "model")

    shipped = language_model.load(folder / "model")
    trained = dictionary_training.train(shipped, streams, plan.recipe, plan.seed, _say)
    dictionary_training.save(trained, plan.shape.context, folder / "saes")


def _copy(kept: Path, folder: Path) -> None:
    """All that is made before the transcoders."""
    for name in ("model", "saes"):
        shutil.copytree(kept / name, folder / name)
    for name in ("text.jsonl", measure.TRAINING):
        shutil.copy(kept / name, folder / name)


def _record(made: Mapping[str, object], folder: Path) -> None:
    """Add to the record of the training, or begin it."""
    path = folder / measure.TRAINING
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**before, **made}, indent=2) + "\n", encoding="utf-8")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Train the demo's tokenizer, language model and dictionaries from a jsonl file of {text, source}."""
    parser = argparse.ArgumentParser(prog="python -m circuitcli.demo.train", description=main.__doc__)
    parser.add_argument("--text", type=Path, required=True, help="jsonl, one document a line")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lm-steps", type=int, default=2900, help="of the language model")
    parser.add_argument(
        "--lm-minutes", type=float, default=math.inf, help="run through its schedule faster, if need be"
    )
    parser.add_argument("--sae-steps", type=int, default=3000, help="of the dictionaries")
    parser.add_argument("--sae-minutes", type=float, default=math.inf)
    parser.add_argument("--tuning-steps", type=int, default=700, help="of the resid_post dictionaries thereafter")
    parser.add_argument("--tuning-minutes", type=float, default=math.inf)
    parser.add_argument("--transcoder-steps", type=int, default=700, help="of all transcoders")
    parser.add_argument("--transcoder-tuning-steps", type=int, default=250, help="of them thereafter")
    parser.add_argument("--transcoder-minutes", type=float, default=math.inf)
    parser.add_argument("--again", type=Path, metavar="FOLDER", help="train transcoders of its model, keep the rest")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.out.exists():
        parser.error(f"{chosen.out} exists already: name a new folder")
    torch.set_num_threads(chosen.threads)
    schedule = Schedule(steps=chosen.lm_steps, minutes=chosen.lm_minutes)
    recipe = Recipe(
        steps=chosen.sae_steps,
        minutes=chosen.sae_minutes,
        tuning_steps=chosen.tuning_steps,
        tuning_minutes=chosen.tuning_minutes,
        transcoder_steps=chosen.transcoder_steps,
        transcoder_tuning_steps=chosen.transcoder_tuning_steps,
        transcoder_minutes=chosen.transcoder_minutes,
    )
    run(Plan(chosen.text, chosen.out, chosen.seed, Shape(), schedule, recipe, kept=chosen.again))


if __name__ == "__main__":
    main()
