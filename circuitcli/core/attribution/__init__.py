"""Why a model says a token: what each node of a prompt does to a metric, and through which others it does it.

1.  `parts`      The prompt is run clean. At each site that a dictionary writes, and each position that counts, the
                 stream is the sum of what features and error add; with the tokens at the bottom these are the nodes.
2.  `gradients`  ∂m/∂x at every site by one pass back, under the model's own rules, or others (`relp`, `freeze`); from
                 it the estimate of each node's effect. `ig` averages gradients on the way to the baseline.
3.  `measured`   The effect itself: a node is replaced, the rest of the model runs again, and m is read.
4.  `edges`      Of a node's effect what goes through another node and through no third: products of vectors with the
                 Jacobians between sites. `direct` measures the same.

m is of the next token at the prompt's last position, see `metric`. An effect is m(replaced) − m(clean).

Marks et al. 2024, "Sparse Feature Circuits"; Ameisen et al. 2025, "Circuit Tracing"; Nanda 2023, "Attribution
Patching"; Sundararajan et al. 2017 (integrated gradients); Jafari et al. 2025, arXiv 2508.21258 (RelP).
"""
