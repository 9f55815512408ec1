"""Two paths whose gradients cancel, and whose values don't: one by the stream, one by an MLP.

    block 0    excess = relu([word is x] − ½)
    logit(yes) = [word is x] − excess

At x both paths have slope 1, with opposite signs, so that m doesn't change with x there; but without x m is 0, not ½. A
gradient at the clean activation finds nothing in x and in what feeds it; the mean of gradients on the way to 0 does.
"""

from circuitcli.known.answer import Known
from circuitcli.known.program import Block, Program, Unit

KNOWN = Known(
    name="cancelling",
    says="paths whose gradients cancel",
    program=Program(
        words=("x", "a", "yes", "no"),
        positions=4,
        variables=("excess",),
        blocks=(Block(units=(Unit({"tok:x": 1.0}, -0.5, {"excess": 1.0}),)),),
        logits={"yes": {"tok:x": 1.0, "excess": -1.0}},
    ),
    sites=("0.resid_pre", "0.resid_post"),
    prompt="a x",
    target="yes",
    against="no",
    metric=0.5,
    circuit="""
        token@2                  -1/2
        0.resid_pre.tok:x@2      -1/2
        0.resid_post.tok:x@2     -1
        0.resid_post.excess@2     1/2

        token@2                 ->  0.resid_pre.tok:x@2      -1/2
        0.resid_pre.tok:x@2     ->  0.resid_post.tok:x@2     -1
        0.resid_pre.tok:x@2     ->  0.resid_post.excess@2     1/2
        0.resid_post.tok:x@2    ->  target                   -1
        0.resid_post.excess@2   ->  target                    1/2
    """,
)
