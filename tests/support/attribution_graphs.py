"""Small graphs of attributions: one worked out by hand, and random ones."""

import numpy as np

from circuitcli.core.influence import ERROR, FEATURE, TARGET, TOKEN, AttributionGraph

Edges = list[tuple[int, int, float]]


def graph(kind: list[int], edges: Edges, outcome: dict[int, float]) -> AttributionGraph:
    """A graph of edges (source, target, weight)."""
    source, target, weight = zip(*edges, strict=True) if edges else ((), (), ())
    share = np.zeros(len(kind))
    share[list(outcome)] = list(outcome.values())
    return AttributionGraph(
        np.asarray(source, np.int64),
        np.asarray(target, np.int64),
        np.asarray(weight, np.float64),
        np.asarray(kind, np.int8),
        share,
    )


A, B, E, F, G, T = range(6)

# Two tokens a and b, an error e, features f and g, a target t. Shares of what each is fed:
#   f: a 3/4, b 1/4    g: f 1/2, e 1/2    t: f 1/4, g 3/4
BY_HAND = graph(
    [TOKEN, TOKEN, ERROR, FEATURE, FEATURE, TARGET],
    [(A, F, 3.0), (B, F, -1.0), (F, G, 2.0), (E, G, -2.0), (F, T, 1.0), (G, T, -3.0)],
    {T: 1.0},
)


def random_graph(seed: int, n: int = 16, density: float = 0.4) -> AttributionGraph:
    """Tokens first, errors and features between, one to three targets last; few distinct weights, so that some tie."""
    rng = np.random.default_rng(seed)
    targets = int(rng.integers(1, 4))
    inner = rng.choice([FEATURE, FEATURE, FEATURE, ERROR], size=n - 3 - targets).tolist()
    kind = [TOKEN] * 3 + inner + [TARGET] * targets
    fed = [d for d in range(n) if kind[d] in (FEATURE, TARGET)]
    edges = [
        (u, d, float(rng.choice([-2.0, -1.0, -0.3, 0.0, 0.1, 1.0, 2.5, rng.normal()])))
        for d in fed
        for u in range(d)
        if kind[u] != TARGET and rng.random() < density
    ]
    rng.shuffle(edges)
    share = rng.dirichlet(np.ones(targets))
    ends = [(int(u), int(d), float(w)) for u, d, w in edges]
    return graph(kind, ends, {n - targets + i: float(part) for i, part in enumerate(share)})


def dense_shares(one: AttributionGraph) -> np.ndarray:
    """Â as a matrix, rows the targets."""
    found = np.zeros((len(one), len(one)))
    found[one.target, one.source] = np.abs(one.weight)
    total = found.sum(1, keepdims=True)
    return np.where(total > 0, found / np.where(total > 0, total, 1), 0)
