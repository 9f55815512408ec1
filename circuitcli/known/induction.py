"""Induction: what came after this word before? Two blocks, one head each (Olsson et al. 2022).

    block 0    previous(p) = word(p − 1)                   a query is a position, and its key the one before
    block 1    next(p) = word(k) where previous(k) = word(p)
    logit(w) = [next is w]

After `a b c a` position 4 holds a, looks for what has a before it, finds b at 2, and says b. At 2 stand b, which is
moved, and previous:a, which is the key, and comes from a at 1 by the positions 1 and 2. The words b at 2 and a at 4 are
carried from block to block by the stream.
"""

from circuitcli.known.answer import Known
from circuitcli.known.program import Attention, Block, Program

_WORDS, _POSITIONS = ("a", "b", "c", "d"), 6
_PREVIOUS = Attention(
    match=tuple((f"pos:{p}", f"pos:{p - 1}") for p in range(2, _POSITIONS)),
    moves=tuple((f"tok:{w}", f"prev:{w}") for w in _WORDS),
)
_NEXT = Attention(
    match=tuple((f"tok:{w}", f"prev:{w}") for w in _WORDS),
    moves=tuple((f"tok:{w}", f"next:{w}") for w in _WORDS),
)

KNOWN = Known(
    name="induction",
    says="what followed this token before",
    program=Program(
        words=_WORDS,
        positions=_POSITIONS,
        variables=(*(f"prev:{w}" for w in _WORDS), *(f"next:{w}" for w in _WORDS)),
        blocks=(Block(_PREVIOUS), Block(_NEXT)),
        logits={w: {f"next:{w}": 1.0} for w in _WORDS},
    ),
    sites=("0.resid_pre", "0.resid_post", "1.resid_post"),
    prompt="a b c a",
    target="b",
    against="d",
    metric=1.0,
    circuit="""
        token@1                  -1
        token@2                  -1
        token@4                  -1
        0.resid_pre.tok:a@1      -1
        0.resid_pre.pos:1@1      -1
        0.resid_pre.pos:2@2      -1
        0.resid_pre.tok:b@2      -1
        0.resid_pre.tok:a@4      -1
        0.resid_post.prev:a@2    -1
        0.resid_post.tok:b@2     -1
        0.resid_post.tok:a@4     -1
        1.resid_post.next:b@4    -1

        token@1                 ->  0.resid_pre.tok:a@1      -1
        token@1                 ->  0.resid_pre.pos:1@1      -1
        token@2                 ->  0.resid_pre.pos:2@2      -1
        token@2                 ->  0.resid_pre.tok:b@2      -1
        token@4                 ->  0.resid_pre.tok:a@4      -1
        0.resid_pre.tok:a@1     ->  0.resid_post.prev:a@2    -1
        0.resid_pre.pos:1@1     ->  0.resid_post.prev:a@2    -1
        0.resid_pre.pos:2@2     ->  0.resid_post.prev:a@2    -1
        0.resid_pre.tok:b@2     ->  0.resid_post.tok:b@2     -1
        0.resid_pre.tok:a@4     ->  0.resid_post.tok:a@4     -1
        0.resid_post.prev:a@2   ->  1.resid_post.next:b@4    -1
        0.resid_post.tok:b@2    ->  1.resid_post.next:b@4    -1
        0.resid_post.tok:a@4    ->  1.resid_post.next:b@4    -1
        1.resid_post.next:b@4   ->  target                   -1
    """,
)
