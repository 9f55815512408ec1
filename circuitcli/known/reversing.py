"""After a separator, emit what came before it reversed: a head and an MLP, then a head.

    block 0    sep(p) = the position s of the separator    every position looks for it
               from(p) = 2s − 1 − p                        a unit for each pair of s and p: 2·relu(sep + pos − 1.5)
    block 1    out(p) = word(from(p))                      a query is from, and its key a position
    logit(w) = [out is w]

After `a b c | c` position 5 knows that the separator is at 4, so that 2 is next, and says b. The separator's word at 4
is the key by which it is found, and its position what is moved. Position 5, and position and word at 2, are carried on
by the stream until they are used.
"""

from circuitcli.known.answer import Known
from circuitcli.known.program import Attention, Block, Program, Unit

_WORDS, _POSITIONS = ("a", "b", "c", "d"), 8
_PLACES = range(1, _POSITIONS)
_FIND = Attention(match=((None, "tok:|"),), moves=tuple((f"pos:{p}", f"sep:{p}") for p in _PLACES))
_FROM = tuple(
    Unit({f"sep:{s}": 1.0, f"pos:{p}": 1.0}, -1.5, {f"from:{2 * s - 1 - p}": 2.0})
    for s in _PLACES
    for p in _PLACES
    if s <= p < 2 * s - 1
)
_OUT = Attention(
    match=tuple((f"from:{p}", f"pos:{p}") for p in _PLACES),
    moves=tuple((f"tok:{w}", f"out:{w}") for w in _WORDS),
)

KNOWN = Known(
    name="reversing",
    says="what came before |, reversed",
    program=Program(
        words=(*_WORDS, "|"),
        positions=_POSITIONS,
        variables=(
            *(f"sep:{p}" for p in _PLACES),
            *(f"from:{p}" for p in _PLACES),
            *(f"out:{w}" for w in _WORDS),
        ),
        blocks=(Block(_FIND, _FROM), Block(_OUT)),
        logits={w: {f"out:{w}": 1.0} for w in _WORDS},
    ),
    sites=("0.resid_pre", "0.resid_mid", "0.resid_post", "1.resid_post"),
    prompt="a b c | c",
    target="b",
    against="d",
    metric=1.0,
    circuit="""
        token@2                  -1
        token@4                  -1
        token@5                  -1
        0.resid_pre.tok:b@2      -1
        0.resid_pre.pos:2@2      -1
        0.resid_pre.tok:|@4      -1
        0.resid_pre.pos:4@4      -1
        0.resid_pre.pos:5@5      -1
        0.resid_mid.tok:b@2      -1
        0.resid_mid.pos:2@2      -1
        0.resid_mid.sep:4@5      -1
        0.resid_mid.pos:5@5      -1
        0.resid_post.tok:b@2     -1
        0.resid_post.pos:2@2     -1
        0.resid_post.from:2@5    -1
        1.resid_post.out:b@5     -1

        token@2                 ->  0.resid_pre.tok:b@2      -1
        token@2                 ->  0.resid_pre.pos:2@2      -1
        token@4                 ->  0.resid_pre.tok:|@4      -1
        token@4                 ->  0.resid_pre.pos:4@4      -1
        token@5                 ->  0.resid_pre.pos:5@5      -1
        0.resid_pre.tok:|@4     ->  0.resid_mid.sep:4@5      -1
        0.resid_pre.pos:4@4     ->  0.resid_mid.sep:4@5      -1
        0.resid_pre.pos:5@5     ->  0.resid_mid.pos:5@5      -1
        0.resid_pre.tok:b@2     ->  0.resid_mid.tok:b@2      -1
        0.resid_pre.pos:2@2     ->  0.resid_mid.pos:2@2      -1
        0.resid_mid.sep:4@5     ->  0.resid_post.from:2@5    -1
        0.resid_mid.pos:5@5     ->  0.resid_post.from:2@5    -1
        0.resid_mid.tok:b@2     ->  0.resid_post.tok:b@2     -1
        0.resid_mid.pos:2@2     ->  0.resid_post.pos:2@2     -1
        0.resid_post.from:2@5   ->  1.resid_post.out:b@5     -1
        0.resid_post.tok:b@2    ->  1.resid_post.out:b@5     -1
        0.resid_post.pos:2@2    ->  1.resid_post.out:b@5     -1
        1.resid_post.out:b@5    ->  target                   -1
    """,
)
