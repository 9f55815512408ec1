"""Copy the previous token: one block, one head.

    previous(p) = word(p − 1)        a query is a position, and its key the one before
    logit(w) = [previous is w]

After `a b c` position 3 looks at 2, and says b. What it takes: the word at 2, its position, which is the key, and
position 3, which is the query. Without any of them it looks at BOS, or moves nothing: m falls from 1 to 0.
"""

from circuitcli.known.answer import Known
from circuitcli.known.program import Attention, Block, Program

_WORDS, _POSITIONS = ("a", "b", "c", "d"), 6
_HEAD = Attention(
    match=tuple((f"pos:{p}", f"pos:{p - 1}") for p in range(2, _POSITIONS)),
    moves=tuple((f"tok:{w}", f"prev:{w}") for w in _WORDS),
)

KNOWN = Known(
    name="copying",
    says="the token before this one",
    program=Program(
        words=_WORDS,
        positions=_POSITIONS,
        variables=tuple(f"prev:{w}" for w in _WORDS),
        blocks=(Block(_HEAD),),
        logits={w: {f"prev:{w}": 1.0} for w in _WORDS},
    ),
    sites=("0.resid_pre", "0.resid_post"),
    prompt="a b c",
    target="b",
    against="d",
    metric=1.0,
    circuit="""
        token@2                  -1
        token@3                  -1
        0.resid_pre.tok:b@2      -1
        0.resid_pre.pos:2@2      -1
        0.resid_pre.pos:3@3      -1
        0.resid_post.prev:b@3    -1

        token@2                 ->  0.resid_pre.tok:b@2      -1
        token@2                 ->  0.resid_pre.pos:2@2      -1
        token@3                 ->  0.resid_pre.pos:3@3      -1
        0.resid_pre.tok:b@2     ->  0.resid_post.prev:b@3    -1
        0.resid_pre.pos:2@2     ->  0.resid_post.prev:b@3    -1
        0.resid_pre.pos:3@3     ->  0.resid_post.prev:b@3    -1
        0.resid_post.prev:b@3   ->  target                   -1
    """,
)
