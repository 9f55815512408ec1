"""How many workers a sweep of twelve layers keeps busy, on a simulated cluster: tasks sleep as long as shards take.

All else is done: the stage chooses every feature of every layer, plans its shards, draws their contexts and sends them;
workers are threads of a few processes, over TCP as real ones; files as large as real ones come back, and are written,
synced and hashed; a layer follows from where the one before leads. Activations are those of a small model whose
dictionaries are as wide as GPT-2 small's.

    PYTHONPATH=.:tests python tests/bench/simulated_cluster.py --workers 16,64,128,256
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support import tiny
from support.slept import ABLATIONS, SECONDS, Sleep
from transformers import GPT2Config, GPT2LMHeadModel

from circuitcli.core.branches import Follow
from circuitcli.core.contexts import Firings
from circuitcli.core.sites import Site
from circuitcli.executors import Places
from circuitcli.executors._cluster import Connection
from circuitcli.executors._dispatch import Dispatch, Pool
from circuitcli.executors.dask import Dask
from circuitcli.settings import resolve
from circuitcli.stages import cache_acts, fetch_saes
from circuitcli.stages.ablate import Ablating
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job, unstarted
from circuitcli.store import ablations
from circuitcli.store.ablations import Shard
from circuitcli.store.records import FileEntry
from circuitcli.store.run import Run
from circuitcli.store.tables import Encoded

HOSTS, LAYERS, D_MODEL, D_SAE, SEQUENCES, TOKENS = 4, 12, 64, 24_576, 800, 128
# Times of shards around what their ablations take.
SPREAD = 0.15


class Simulated(Ablating):
    """The stage, whose ablations are slept through."""

    slept = 0.0
    sent = 0

    def task(self, site: Site, contexts: dict[int, Firings], follow: Follow) -> Any:
        task = super().task(site, contexts, follow)
        lots = random.Random(self.sent)
        seconds = SECONDS * len(task) / ABLATIONS * lots.uniform(1 - SPREAD, 1 + SPREAD)
        self.slept, self.sent = self.slept + seconds, self.sent + 1
        return Sleep(seconds, task, self.sent)


def write(run: Run, shard: Shard, files: Mapping[str, Encoded]) -> dict[str, FileEntry]:
    """As the stage writes a shard, whose files go again: all together are larger than most disks."""
    entries = _write(run, shard, files)
    for name in entries:
        run.path(name).unlink()
    return entries


_write = ablations.write


def cached(root: Path) -> Path:
    """A run whose activations are cached."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=LAYERS, n_embd=D_MODEL, n_head=4, n_positions=TOKENS, vocab_size=tiny.VOCAB,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(root / "model")
    tiny.with_tokenizer(root / "model")
    for layer in range(LAYERS):
        folder = root / "saes" / f"{layer}.resid_post"
        folder.mkdir(parents=True)
        w_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL), dim=1)
        weights = {
            "W_enc": w_dec.T.contiguous(),
            "W_dec": w_dec,
            "b_enc": torch.zeros(D_SAE),
            "b_dec": torch.zeros(D_MODEL),
        }
        save_file(weights, folder / "sae_weights.safetensors")
        told = tiny.config((layer, "resid_post"), "topk", "none", D_MODEL) | {"d_sae": D_SAE, "k": 64}
        (folder / "cfg.json").write_text(json.dumps(told))
    lots = random.Random(0)
    lines = [" ".join(lots.choices(tiny.WORDS, k=2 * TOKENS)) for _ in range(2 * SEQUENCES)]
    (root / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    job = Job(settings(root), Silent(), Run(root / "run", STAGES.folders))
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    return root


def settings(root: Path) -> Any:
    return resolve(
        {
            "model": str(root / "model"),
            "saes": {"release": str(root / "saes"), "sites": ["resid_post"]},
            "texts": {"file": str(root / "text.jsonl"), "num_sequences": SEQUENCES, "max_tokens": TOKENS},
            "features": {"start": "random", "thinning": 1.0, "max_features": D_SAE},
            "runtime": {"device": "cpu"},
        }
    )


async def host(address: str, count: int) -> None:
    """Workers as threads of this process, until it is ended."""
    from distributed import Worker

    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(
                Worker(address, nthreads=1, memory_limit=0, dashboard=False, host="127.0.0.1")
            )
        await asyncio.Event().wait()


@contextmanager
def cluster(workers: int) -> Iterator[Dask]:
    """A scheduler of this process, and workers of a few others; all are there."""
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=":0") as one:
        counts = [len(range(number, workers, HOSTS)) for number in range(HOSTS)]
        command = [sys.executable, __file__, "--host", one.scheduler_address, "--workers"]
        # What a worker watches of itself it watches on cores of its own; here they are the scheduler's.
        quiet = os.environ | {
            "DASK_LOGGING__DISTRIBUTED": "critical",
            "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "30s",
            "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        }
        hosts = [subprocess.Popen([*command, str(count)], env=quiet) for count in counts if count]
        try:
            with Client(one, set_as_default=False, direct_to_workers=True) as client:
                client.wait_for_workers(workers, timeout=300)
                pool = Pool(Connection(client, one, name="simulated"), print, mixed=False)
                naps = [Sleep(0.05)] * (4 * workers)
                list(Dispatch(pool, naps, Places(None, partial(dict)), "naps", done=_uncounted, say=print).results())
                dask = Dask("", "", (), False, print)
                vars(dask)["_pool"] = pool
                yield dask
        finally:
            for process in hosts:
                process.kill()


def _uncounted(done: int) -> None:
    pass


def swept(root: Path, workers: int) -> str:
    """A row of the table."""
    with cluster(workers) as dask, tempfile.TemporaryDirectory(dir=root) as folder:
        run = shutil.copytree(root / "run", Path(folder) / "run", copy_function=os.link)
        job = Job(settings(root), Silent(), Run(run, STAGES.folders), executor=dask)
        todo = unstarted(job, "ablate", {})
        assert todo is not None
        work = Simulated(job, todo)
        started = time.monotonic()
        features, contexts = work.every_layer()
        took = time.monotonic() - started
    busy, mean = work.slept / workers / took, work.slept / work.sent
    return (
        f"| {workers} | {len(features):,} | {contexts:,} | {work.sent / LAYERS / workers:.3g} | {mean:.2f} "
        f"| {busy:.1%} | {work.sent / took:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="16,64,128,256")
    parser.add_argument("--cached", type=Path, help="a folder that keeps the activations, or has them")
    parser.add_argument("--host", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.host:
        asyncio.run(host(asked.host, int(asked.workers)))
        return
    ablations.write = write
    with tempfile.TemporaryDirectory() as folder:
        root = asked.cached or Path(folder)
        if not (root / "run").is_dir():
            cached(root)
        print("| Workers | Features | Ablations | Shards of a layer for each | Seconds each | Busy | Shards a second |")
        print("|---|---|---|---|---|---|---|")
        for workers in map(int, asked.workers.split(",")):
            print(swept(root, workers), flush=True)


if __name__ == "__main__":
    main()
