"""How much of what a model does on some examples a circuit does: a few features of each dictionary.

1.  `examples`, `readings`   What is asked of the model, and the number m that a pass over it is read for.
2.  `keeping`                A pass in which only a circuit C does its work. Sites run in order; each dictionary encodes
                             the stream as it is by then; what lies outside C takes its baseline.
3.  `faithfulness`           From m(C), m(∅) and m(M), which is the model's own, to

        f(C) = (m(C) − m(∅)) / (m(M) − m(∅))        completeness: f(M∖C)

    a ratio of means over examples.

Marks et al. 2024, "Sparse Feature Circuits"; Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark".
"""
