"""circuit-tracer's part of what is compared: run in an environment of its own, it writes files and answers in files.

python theirs.py [write] [attribute] FOLDER

write            transcoders of its own classes, as its files; what they make of random inputs
attribute        the graph of each prompt, its scores, and what is left of it pruned; how long that took, and how
                 much memory
FOLDER/job.json  what to do
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.graph import compute_graph_scores, compute_node_influence, prune_graph
from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
from circuit_tracer.transcoder.single_layer_transcoder import (
    SingleLayerTranscoder,
    TranscoderSet,
    load_transcoder_set,
)
from tokenizers import Tokenizer
from transformer_lens import HookedTransformerConfig
from transformer_lens.loading_from_pretrained import get_pretrained_state_dict
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

PER_LAYER, CROSS_LAYER = "transcoder_set", "cross_layer_transcoder"


def write(folder: Path, job: dict[str, Any]) -> None:
    """A set of its own, random, in `transcoders`; and in `said.npz` what it makes of inputs and of edits."""
    draw = torch.Generator().manual_seed(job["seed"])
    shape = job["n_layers"], job["d_sae"], job["d_model"]
    made = cross_layer(job, draw) if job["model_kind"] == CROSS_LAYER else per_layer(job, draw)
    into = folder / "transcoders"
    made.to_safetensors(str(into))
    config = {name: job[name] for name in ("model_name", "model_kind", "feature_input_hook", "feature_output_hook")}
    (into / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    x = torch.randn(shape[0], job["rows"], shape[2], generator=draw)
    with torch.no_grad():
        a = made.encode(x)
        edited = a.clone()
        edited[:, :, :: job["edit_every"]] = 0
        said = {"x": x, "a": a, "y": made.decode(a, x), "edited_a": edited, "edited": made.decode(edited, x)}
    np.savez(folder / "said.npz", **{name: value.numpy() for name, value in said.items()})


def per_layer(job: dict[str, Any], draw: torch.Generator) -> TranscoderSet:
    """Transcoders that write their own layer's output."""
    made = {}
    for layer in range(job["n_layers"]):
        d, n = job["d_model"], job["d_sae"]
        threshold = torch.rand(n, generator=draw) / 2
        act = JumpReLU(threshold, 0.1) if job["activation"] == "jump_relu" else torch.nn.functional.relu
        one = SingleLayerTranscoder(d, n, act, layer, skip_connection=job["skip"], dtype=torch.float32)
        fill(one, draw, job)
        made[layer] = one
    return TranscoderSet(made, job["feature_input_hook"], job["feature_output_hook"], "ours/random")


def cross_layer(job: dict[str, Any], draw: torch.Generator) -> CrossLayerTranscoder:
    """One whose features write their own layer's output and those of all later ones."""
    made = CrossLayerTranscoder(
        job["n_layers"], job["d_sae"], job["d_model"], job["activation"], lazy_decoder=False, dtype=torch.float32,
        feature_input_hook=job["feature_input_hook"], feature_output_hook=job["feature_output_hook"],
    )  # fmt: skip
    fill(made, draw, job)
    return made


def fill(module: torch.nn.Module, draw: torch.Generator, job: dict[str, Any]) -> None:
    """Random weights; thresholds are above 0, biases small, or, for few active features, well below 0."""
    for name, value in module.named_parameters():
        drawn = torch.randn(value.shape, generator=draw)
        if name.endswith("threshold"):
            value.data = drawn.abs() / 4
        elif name == "b_enc":
            value.data = drawn / 10 - job.get("below", 0.0)
        else:
            value.data = drawn / (10 if name == "b_dec" else job["d_model"] ** 0.5)


def load(folder: Path) -> Any:
    """The set that lies in a folder, as its own loader reads it once it is downloaded."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    hooks = {name: config[name] for name in ("feature_input_hook", "feature_output_hook")}
    same: dict[str, Any] = {**hooks, "scan": "ours/random", "dtype": torch.float32, "device": torch.device("cpu")}
    if config["model_kind"] == CROSS_LAYER:
        return load_clt(str(folder), **same)
    paths = {layer: str(folder / f"layer_{layer}.safetensors") for layer in range(len(list(folder.glob("layer_*"))))}
    return load_transcoder_set(paths, lazy_encoder=False, lazy_decoder=True, **same)


def replacement_model(checkpoint: str, transcoders: Path) -> TransformerLensReplacementModel:
    """A checkpoint of any size, which TransformerLens loads by no name, with the transcoders of a folder."""
    hf = AutoModelForCausalLM.from_pretrained(checkpoint)
    facts = {"gpt2": gpt2, "llama": llama, "gemma2": gemma2}[hf.config.model_type](hf.config)
    facts |= {"model_name": "local", "original_architecture": hf.config.architectures[0], "device": "cpu"}
    config = HookedTransformerConfig.from_dict(facts)
    words = Tokenizer.from_file(f"{checkpoint}/tokenizer.json")
    model = TransformerLensReplacementModel(config, tokenizer=None)
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=words.id_to_token(0))
    model.load_and_process_state_dict(
        get_pretrained_state_dict(checkpoint, config, hf),
        fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False,
    )  # fmt: skip
    model._configure_replacement_model(load(transcoders))
    return model


def gpt2(config: Any) -> dict[str, Any]:
    """What TransformerLens is told of a model of this family."""
    return {
        "d_model": config.n_embd, "d_head": config.n_embd // config.n_head, "n_heads": config.n_head,
        "d_mlp": config.n_embd * 4, "n_layers": config.n_layer, "n_ctx": config.n_positions,
        "eps": config.layer_norm_epsilon, "d_vocab": config.vocab_size, "act_fn": config.activation_function,
        "normalization_type": "LN",
    }  # fmt: skip


def llama(config: Any) -> dict[str, Any]:
    """Likewise."""
    return {
        "d_model": config.hidden_size, "d_head": config.head_dim, "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads, "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers, "n_ctx": config.max_position_embeddings, "eps": config.rms_norm_eps,
        "d_vocab": config.vocab_size, "act_fn": "silu", "normalization_type": "RMS", "gated_mlp": True,
        "positional_embedding_type": "rotary", "rotary_base": 10000.0, "rotary_dim": config.head_dim,
        "rotary_adjacent_pairs": False, "final_rms": True,
    }  # fmt: skip


def gemma2(config: Any) -> dict[str, Any]:
    """Likewise."""
    types = {"sliding_attention": "local", "full_attention": "global"}
    return llama(config) | {
        "act_fn": "gelu_pytorch_tanh", "attn_scale": config.query_pre_attn_scalar**0.5,
        "use_local_attn": True, "window_size": config.sliding_window,
        "attn_types": [types[one] for one in config.layer_types], "attn_scores_soft_cap": config.attn_logit_softcapping,
        "output_logits_soft_cap": config.final_logit_softcapping, "use_normalization_before_and_after": True,
    }  # fmt: skip


def answer(folder: Path, job: dict[str, Any]) -> None:
    """The graph of each prompt of the job, in `graph-<number>.npz`, and how it was had in `cost.json`."""
    torch.set_num_threads(job["threads"])
    model = replacement_model(job["model"], Path(job["transcoders"]))
    before = peak()
    costs = []
    for number, ids in enumerate(job["prompts"]):
        started, busy = time.perf_counter(), time.process_time()
        targets = torch.tensor(job["targets"][number]) if job.get("targets") else None
        graph = attribute(
            torch.tensor(ids), model, attribution_targets=targets, max_feature_nodes=job["most"],
            batch_size=job["batch"],
        )  # fmt: skip
        cost = {"seconds": time.perf_counter() - started, "busy": time.process_time() - busy}
        costs.append(cost | {"peak_bytes": peak(), "peak_before_bytes": before})
        if not job["keep"]:
            continue
        weight = torch.zeros(len(graph.adjacency_matrix))
        weight[-len(graph.logit_targets) :] = graph.logit_probabilities
        pruned, scores = prune_graph(graph), compute_graph_scores(graph)
        found = {
            "adjacency": graph.adjacency_matrix,
            "features": graph.active_features[graph.selected_features],
            "activations": graph.activation_values[graph.selected_features],
            "targets": graph.logit_token_ids,
            "probs": graph.logit_probabilities,
            "influence": compute_node_influence(graph.adjacency_matrix, weight),
            "nodes": pruned.node_mask,
            "edges": pruned.edge_mask,
        }
        arrays = {name: value.detach().numpy() for name, value in found.items()}
        np.savez(folder / f"graph-{number}.npz", scores=np.asarray(scores), tokens=np.asarray(ids), **arrays)
    (folder / "cost.json").write_text(json.dumps(costs), encoding="utf-8")


def peak() -> int:
    """The most memory that this process has held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    where = Path(sys.argv[-1])
    asked = json.loads((where / "job.json").read_text(encoding="utf-8"))
    for what in sys.argv[1:-1]:
        {"write": write, "attribute": answer}[what](where, asked)
