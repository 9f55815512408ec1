"""A token's share so far (RASP's frac_prevs): an MLP, then a head that looks at all positions alike, BOS left out.

    block 0    is_x(p) = relu([word(p) is x])
    block 1    share(p) = mean of is_x over 1 … p
    logit(yes) = share

After `x a x` the share is 2/3, and each x has 1/3 of it.
"""

from circuitcli.known.answer import Known
from circuitcli.known.program import Attention, Block, Program, Unit

KNOWN = Known(
    name="share",
    says="a token's share so far",
    program=Program(
        words=("x", "a", "yes", "no"),
        positions=6,
        variables=("is_x", "share"),
        blocks=(
            Block(units=(Unit({"tok:x": 1.0}, 0.0, {"is_x": 1.0}),)),
            Block(Attention(match=(), moves=(("is_x", "share"),), bos=-1.0)),
        ),
        logits={"yes": {"share": 1.0}},
    ),
    sites=("0.resid_pre", "0.resid_post", "1.resid_post"),
    prompt="x a x",
    target="yes",
    against="no",
    metric=2 / 3,
    circuit="""
        token@1                 -1/3
        token@3                 -1/3
        0.resid_pre.tok:x@1     -1/3
        0.resid_pre.tok:x@3     -1/3
        0.resid_post.is_x@1     -1/3
        0.resid_post.is_x@3     -1/3
        1.resid_post.share@3    -2/3

        token@1                ->  0.resid_pre.tok:x@1     -1/3
        token@3                ->  0.resid_pre.tok:x@3     -1/3
        0.resid_pre.tok:x@1    ->  0.resid_post.is_x@1     -1/3
        0.resid_pre.tok:x@3    ->  0.resid_post.is_x@3     -1/3
        0.resid_post.is_x@1    ->  1.resid_post.share@3    -1/3
        0.resid_post.is_x@3    ->  1.resid_post.share@3    -1/3
        1.resid_post.share@3   ->  target                  -2/3
    """,
)
