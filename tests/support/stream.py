"""A transformer by hand, in float64 and without LayerNorms: its stream, its circuit by the definition of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from circuitcli.known import Known
from circuitcli.known.program import Matrices, Program

Edge = tuple[str, str]
Hook = Callable[[str, np.ndarray], np.ndarray]


@dataclass
class Layer:
    """q = x query + bias, scores q·(x key) / divisor, out; then relu(x read + mlp_bias) write."""

    head: Matrices
    mlp: Matrices
    divisor: float = 1.0


@dataclass
class Stream:
    """A model whose features are directions; `written` is what one adds, and reading is by index."""

    features: Sequence[str]
    words: dict[str, int]
    bos: str
    token: np.ndarray
    position: np.ndarray
    written: np.ndarray
    layers: list[Layer]
    sites: Sequence[str]
    clean: dict[str, np.ndarray] = field(default_factory=dict)

    def run(self, prompt: Sequence[str], hook: Hook = lambda site, x: x) -> np.ndarray:
        """The last stream; at every site the stream goes on as the hook says."""
        ids = [self.words[word] for word in (self.bos, *prompt)]
        x = hook("token", self.token[ids] + self.position[: len(ids)])
        x = hook("0.resid_pre", x)
        for number, layer in enumerate(self.layers):
            head, mlp = layer.head, layer.mlp
            scores = (x @ head["query"] + head["bias"]) @ (x @ head["key"]).T / layer.divisor
            scores[np.triu_indices(len(ids), 1)] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            x = x + weights / weights.sum(1, keepdims=True) @ x @ head["value"] @ head["out"]
            x = hook(f"{number}.resid_mid", x)
            x = x + np.maximum(x @ mlp["read"] + mlp["bias"], 0) @ mlp["write"]
            x = hook(f"{number}.resid_post", x)
        return x

    def circuit(
        self, prompt: Sequence[str], m: Callable[[np.ndarray], float]
    ) -> tuple[dict[str, float], dict[Edge, float]]:
        """Effects of all nodes and edges of a prompt; m is of the last stream at the last position."""
        clean: dict[str, np.ndarray] = {}

        def note(site: str, x: np.ndarray) -> np.ndarray:
            clean[site] = x
            return x

        value = m(self.run(prompt, note)[-1])
        order = ["token", *self.sites]
        nodes: dict[tuple[str, int, int], np.ndarray] = {}  # what replacing each adds
        for site in order:
            for pos in range(1, len(prompt) + 1):
                x = clean[site][pos]
                if site == "token":
                    nodes[site, pos, 0] = -x
                    continue
                for index, written in enumerate(self.written):
                    if x[index] > 0.01:
                        nodes[site, pos, index] = -x[index] * written
        effects = {self.name(node): self.after(prompt, node, delta, m) - value for node, delta in nodes.items()}
        edges: dict[Edge, float] = {}
        for node, delta in nodes.items():
            reached, end = self.cut(prompt, node, delta, clean)
            edges[self.name(node), "target"] = m(end) - value
            for other in nodes:
                site, pos, index = other
                if site == "token" or order.index(site) <= order.index(node[0]) or pos < node[1]:
                    continue
                change = reached[site][pos][index] - clean[site][pos][index]
                effect = self.after(prompt, other, change * self.written[index], m) - value if change else 0.0
                edges[self.name(node), self.name(other)] = effect
        return effects, edges

    def name(self, node: tuple[str, int, int]) -> str:
        site, pos, index = node
        return f"token@{pos}" if site == "token" else f"{site}.{self.features[index]}@{pos}"

    def after(
        self, prompt: Sequence[str], node: tuple[str, int, int], delta: np.ndarray, m: Callable[[np.ndarray], float]
    ) -> float:
        def replace(site: str, x: np.ndarray) -> np.ndarray:
            return self.added(x, node[1], delta) if site == node[0] else x

        return m(self.run(prompt, replace)[-1])

    def cut(
        self, prompt: Sequence[str], node: tuple[str, int, int], delta: np.ndarray, clean: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What reaches each later site with a dictionary, where all go on as they are clean; and the end."""
        reached: dict[str, np.ndarray] = {}

        def hook(site: str, x: np.ndarray) -> np.ndarray:
            if site == node[0]:
                return self.added(clean[site], node[1], delta)
            if site not in self.sites:
                return x
            reached[site] = x
            return clean[site]

        return reached, self.run(prompt, hook)[-1]

    @staticmethod
    def added(x: np.ndarray, pos: int, delta: np.ndarray) -> np.ndarray:
        changed = x.copy()
        changed[pos] += delta
        return changed


def of_program(known: Known) -> Stream:
    """A known model."""
    program: Program = known.program
    embeddings = program.embeddings()
    return Stream(
        features=program.features,
        words={word: i for i, word in enumerate(program.vocabulary)},
        bos=program.vocabulary[0],
        token=embeddings["token"],
        position=embeddings["position"],
        written=program.written,
        layers=[Layer(program.attention(block.attention), program.mlp(block.units)) for block in program.blocks],
        sites=known.sites,
    )


def metric_of(known: Known) -> Callable[[np.ndarray], float]:
    """The difference of two logits."""
    words, unembedding = known.program.vocabulary, known.program.unembedding()
    row = unembedding[words.index(known.target)] - unembedding[words.index(known.against)]
    return lambda x: float(row @ x)


def of_tracr(path: Path) -> tuple[Stream, list[dict[str, object]]]:
    """What tracr compiled, and the last streams that it says it has."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    parameters = {
        module: {name: np.asarray(rows, float) for name, rows in parts.items()}
        for module, parts in tree["parameters"].items()
    }
    layers = []
    for number in range(tree["layers"]):
        attention, mlp = (f"transformer/layer_{number}/{part}" for part in ("attn", "mlp"))
        assert not any(parameters[f"{attention}/{part}"]["b"].any() for part in ("key", "value", "linear"))
        assert not parameters[f"{mlp}/linear_2"]["b"].any()
        head = {name: parameters[f"{attention}/{name}"]["w"] for name in ("query", "key", "value")}
        head |= {"out": parameters[f"{attention}/linear"]["w"], "bias": parameters[f"{attention}/query"]["b"]}
        first = parameters[f"{mlp}/linear_1"]
        units = {"read": first["w"], "bias": first["b"], "write": parameters[f"{mlp}/linear_2"]["w"]}
        layers.append(Layer(head, units, tree["key_size"] ** 0.5))
    stream = Stream(
        features=tree["labels"],
        words=tree["vocabulary"],
        bos="bos",
        token=parameters["token_embed"]["embeddings"],
        position=parameters["pos_embed"]["embeddings"],
        written=np.eye(len(tree["labels"])),
        layers=layers,
        sites=("0.resid_pre", "0.resid_post"),
    )
    return stream, tree["streams"]
