"""The tree of settings: each with its type, its range, its default, its flag and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple


class Flag(NamedTuple):
    """How a setting is typed on a command line, and what it says of itself."""

    name: str | None
    help: str
    metavar: str | None = None
    # Of a setting that runs were made without: while it has its default it is left out, so that they stay as they are.
    late: bool = False


class PlugIns(NamedTuple):
    """The values of a setting are names in this folder of plug-ins, or `beside`. Its flag says them for `{names}`."""

    folder: str
    beside: tuple[str, ...] = ()


# Counts and indices are int32 on disk.
MOST = 2**31 - 1


class Exact:
    """A value is taken as it is: true is no number, and no word is true."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """How pydantic checks it."""
        return handler(source) | {"strict": True}


class Range(NamedTuple):
    """What a number may be: at least `ge`, more than `gt`, less than `lt`, at most `le` (of whole numbers MOST, if
    nothing is said).
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """How pydantic checks it."""
        bounds = {name: bound for name, bound in self._asdict().items() if bound is not None}
        return handler(source) | {"strict": True, **({"le": MOST} if source is int else {}), **bounds}


Truth = Annotated[bool, Exact()]


_TABLE = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """[runtime]: where and how the arithmetic runs."""

    __pydantic_config__ = _TABLE
    device: Annotated[
        str, Flag("--device", "Where to compute: auto, cpu, cuda, cuda:N or mps.", "auto|cpu|cuda|cuda:N|mps")
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Flag(
            "--dtype", "Precision of the model; SAEs and log-probabilities stay in float32.", "float32|bfloat16|float16"
        ),
    ] = "float32"
    batch_size: Annotated[
        Literal["auto"] | Annotated[int, Range(ge=1)],
        Flag("--batch-size", "Rows computed at once; auto picks from free memory.", "N|auto"),
    ] = "auto"
    allow_over_memory: Annotated[
        Truth,
        Flag(
            "--allow-over-memory",
            "Whether to ablate, or attribute, even where that is expected to take more memory than is free.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Saes:
    """[saes]: which sparse autoencoders."""

    __pydantic_config__ = _TABLE
    release: Annotated[
        str,
        Flag(
            "--release",
            "A release of SAEs or transcoders: a name that `fetch-saes --list` shows, a folder with their files in it, "
            "or hf://owner/repo/path.",
            "NAME|DIR|hf://…",
        ),
    ] = "demo"
    revision: Annotated[
        str, Flag("--revision", "Branch, tag or commit of the SAEs' repository on the hub.", "REVISION")
    ] = "main"
    layers: Annotated[
        str, Flag("--layers", "Layers as a Python slice: `4:6`, `:`, `2:`, `-3:`, or one, `4`.", "SLICE")
    ] = ":"
    sites: Annotated[
        Literal["auto"] | tuple[str, ...],
        Flag("--site", "Sites of the SAEs (repeat for several); auto takes the release's own.", "SITE"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Texts:
    """[texts]: which text the model reads. Of prompt, file and dataset at most one."""

    __pydantic_config__ = _TABLE
    source: Annotated[str, PlugIns("texts"), Flag(None, "Where text comes from; follows from the three below.")] = (
        "demo"
    )
    prompt: Annotated[tuple[str, ...], Flag("--prompt", "Text to read (repeat for several).", "TEXT")] = ()
    file: Annotated[
        str,
        Flag(
            "--text",
            "A .jsonl, .parquet, .csv or .tsv file with a column of texts, or plain text with blank lines between "
            "texts; any of them as .gz; - reads text or JSON lines from stdin.",
            "FILE",
        ),
    ] = ""
    dataset: Annotated[
        str,
        Flag(
            "--dataset",
            "A Hugging Face dataset, or a local folder of one; NAME:CONFIG picks a configuration. Sampled from its "
            "first 20,000 rows.",
            "NAME",
        ),
    ] = ""
    column: Annotated[
        str, Flag("--column", "The column that holds the texts; auto takes `text`, or the only one of strings.", "NAME")
    ] = "auto"
    num_sequences: Annotated[int, Range(ge=1), Flag("--num-sequences", "Sequences to sample from the text.")] = 200
    max_tokens: Annotated[
        int, Range(ge=2), Flag("--max-tokens", "Most tokens of a sequence, its BOS counted; prompts are read whole.")
    ] = 100
    prepend_bos: Annotated[
        Literal["auto"] | Truth,
        Flag("--prepend-bos", "Whether sequences start with BOS; auto follows the SAEs.", "auto|true|false"),
    ] = "auto"
    half: Annotated[
        int,
        Range(ge=0),
        Flag(
            None,
            "The random half of the sequences that is read, by number: 1 and 2 are both halves of one cut, 3 and 4 of "
            "the next, and so on; 0: all. `circuit stability` repeats discoveries on halves.",
            late=True,
        ),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """[contexts]: which contexts are shown."""

    __pydantic_config__ = _TABLE
    top_k: Annotated[int, Range(ge=1, le=100), Flag("--top-k", "Top contexts kept and shown for each feature.")] = 6
    view: Annotated[int, Range(ge=0, le=100), Flag("--view", "Tokens shown on each side of the firing token.")] = 5
    num_sequences: Annotated[
        int,
        Range(ge=0),
        Flag("--context-sequences", "A larger sample of text for top contexts alone; 0: the same sample."),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Features:
    """[features]: which features are ablated, and at how many contexts."""

    __pydantic_config__ = _TABLE
    pinned: Annotated[
        tuple[str, ...], Flag("--pin", "Ablate this feature: `4:112` or `4.resid_post.112` (repeat).", "FEATURE")
    ] = ()
    start: Annotated[
        Literal["auto", "random", "strongest", "top-effect"],
        Flag(
            "--start",
            "Which features of the first layer to start from where none of it is pinned. random: a random share. "
            "strongest: those of the largest |activation × gradient| at any context; top-effect: those of its largest "
            "sum over contexts. The gradient is of the likeliest next token's log-probability: at the end of a prompt, "
            "in other text at every position. auto: strongest for prompts, else random. strongest and top-effect take "
            "at least --branching features.",
            "auto|random|strongest|top-effect",
        ),
    ] = "auto"
    thinning: Annotated[
        float, Range(gt=0, le=1), Flag("--thinning", "The share of the first layer's firing features to start from.")
    ] = 0.01
    branching: Annotated[
        int, Range(ge=1), Flag("--branching", "Largest effects of each feature to follow on, at each site.")
    ] = 10
    max_features: Annotated[int, Range(ge=1), Flag("--max-features", "Most features to ablate in one layer.")] = 500
    seq_cap: Annotated[int, Range(ge=1), Flag("--seq-cap", "Most contexts at which to ablate one feature.")] = 100


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """[ablate]: what is done to a feature."""

    __pydantic_config__ = _TABLE
    intervention: Annotated[
        str,
        PlugIns("interventions"),
        Flag(
            "--intervention",
            "What replaces an activation. zero: 0. mean: the feature's mean. resample: what it is at a random other "
            "position of the text. steer: a multiple of its maximum.",
            "{names}",
        ),
    ] = "zero"
    strength: Annotated[
        float,
        Range(ge=-10_000, le=10_000),
        Flag("--strength", "What `steer` multiplies a feature's maximum activation by.", late=True),
    ] = 2.0
    positions: Annotated[
        Literal["top", "onward", "all"],
        Flag(
            "--positions",
            "top: edit one context, read there. onward: edit one context, read there and at every later position; "
            "effects add up. all: edit a whole sequence, read its last position.",
            "top|onward|all",
        ),
    ] = "top"
    horizon: Annotated[
        int,
        Range(ge=0),
        Flag("--horizon", "Most positions behind the edited one that `onward` reads; 0: all of them."),
    ] = 0
    logits: Annotated[Truth, Flag("--logits", "Whether to measure what ablations do to the next token as well.")] = True

    @property
    def reach(self) -> int | None:
        """How many positions behind an edited one are read; None: all of them."""
        if self.positions != "onward":
            return 0 if self.positions == "top" else None
        return self.horizon or None


@dataclass(frozen=True, kw_only=True)
class Effects:
    """[effects]: how effects are summed up."""

    __pydantic_config__ = _TABLE
    logit_tokens: Annotated[
        int,
        Range(ge=1, le=256),
        Flag("--logit-tokens", "Promoted tokens to keep of each feature, and as many suppressed ones."),
    ] = 10


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """[attribute]: the question why a prompt goes on with a token, and how it is answered.

    The fields up to `prompts` are the question; empty ones aren't given.
    """

    __pydantic_config__ = _TABLE
    target: Annotated[
        str,
        Flag(
            "--target",
            "The next token to explain, by its text with the space before a word (' heavens'), or by its id "
            "(id:15); none: the model's most likely one.",
            "TOKEN",
            late=True,
        ),
    ] = ""
    against: Annotated[
        str,
        Flag(
            "--against",
            "A token to set against the target: explains the difference of their logits, not a log-probability.",
            "TOKEN",
            late=True,
        ),
    ] = ""
    counterfactual: Annotated[
        str,
        Flag(
            "--counterfactual",
            "A prompt of as many tokens, whose activations replace those of the prompt.",
            "TEXT",
            late=True,
        ),
    ] = ""
    prompts: Annotated[
        str,
        Flag(
            "--prompts",
            "A .jsonl file of questions, whose answers are averaged: on each line an object with prompt and, if "
            "wanted, target, against (texts, or whole numbers for ids) and counterfactual.",
            "FILE",
            late=True,
        ),
    ] = ""
    baseline: Annotated[
        Literal["auto", "zero", "mean", "resample", "patch"],
        Flag(
            "--baseline",
            "What replaces an activation. zero: 0. mean: the feature's mean. resample: what it is at a random other "
            "position of the text. patch: what it is in the counterfactual. auto: patch where there is one, else zero.",
            "auto|zero|mean|resample|patch",
            late=True,
        ),
    ] = "auto"
    method: Annotated[
        Literal["auto", "exact", "atp", "ig", "relp"],
        Flag(
            "--method",
            "How effects are got. exact: every one is measured. atp, relp, ig: gradients estimate them (attribution "
            "patching; with norms, activations and gates linearised; integrated over steps). auto: all are measured "
            "where the budget allows, else the largest estimates, and others at random to tell how good estimates are.",
            "auto|exact|atp|ig|relp",
            late=True,
        ),
    ] = "auto"
    budget: Annotated[
        float, Range(ge=1, le=10_000_000), Flag("--budget", "Seconds that `auto` may measure for.", late=True)
    ] = 180.0
    ig_steps: Annotated[
        int, Range(ge=1, le=10_000), Flag("--ig-steps", "Steps of `ig` from clean to replaced.", late=True)
    ] = 10
    freeze: Annotated[
        Truth,
        Flag("--freeze", "Whether attention patterns and norms' scales stay as they are in the clean pass.", late=True),
    ] = False
    replace: Annotated[
        Truth,
        Flag(
            "--replace",
            "Whether, with --freeze, transcoders stand for MLPs: effects and edges in the local replacement model, "
            "whose errors are constants, and how far it is from the real one.",
            late=True,
        ),
    ] = False
    targets: Annotated[
        Literal["auto"] | Annotated[int, Range(ge=1)],
        Flag(
            "--targets",
            "With --replace and without --target: the likeliest next tokens, at most so many, that have 95% of the "
            "probability are explained together. auto: 10 of one prompt, as circuit-tracer; else one.",
            "N|auto",
            late=True,
        ),
    ] = "auto"
    positions: Annotated[
        Literal["auto", "separate", "sum"],
        Flag(
            "--node-positions",
            "Whether nodes stand for one position each, or sum over them; auto: separate of one prompt, sum of "
            "several.",
            "auto|separate|sum",
            late=True,
        ),
    ] = "auto"
    candidates: Annotated[
        int,
        Range(ge=1),
        Flag("--candidates", "Most nodes, the strongest, whose edges are computed; --nodes asks for more.", late=True),
    ] = 400
    nodes: Annotated[
        Literal["auto"] | Annotated[int, Range(ge=1)],
        Flag(
            "--nodes",
            "Features and errors to keep, the most influential, beside tokens that feed them; auto: as "
            "--node-influence says.",
            "N|auto",
            late=True,
        ),
    ] = "auto"
    node_influence: Annotated[
        float,
        Range(gt=0, le=1),
        Flag("--node-influence", "The share of all influence that the kept nodes have together.", late=True),
    ] = 0.8
    edge_influence: Annotated[
        float,
        Range(gt=0, le=1),
        Flag("--edge-influence", "The share of all influence that the kept edges have together.", late=True),
    ] = 0.98
    edge_threshold: Annotated[
        float,
        Range(ge=0),
        Flag("--edge-threshold", "Smallest |weight| of an edge to keep, in nats or logits.", late=True),
    ] = 0.0
    half: Annotated[
        int,
        Range(ge=0),
        Flag(None, "The random half of the questions that is asked, by number, as `texts.half`; 0: all.", late=True),
    ] = 0
    edges: Annotated[
        Literal["auto", "estimate", "exact"],
        Flag(
            "--edges",
            "How weights of edges are got. estimate: gradients give them. exact: all between the strongest nodes are "
            "measured. auto: the largest are measured, at most 2,000 and as far as half of the budget allows.",
            "auto|estimate|exact",
            late=True,
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """[graph]: what is drawn."""

    __pydantic_config__ = _TABLE
    of: Annotated[
        Literal["auto", "effects", "attribution"],
        Flag(
            "--of",
            "What is drawn. effects: mean effects of features on features. attribution: why a prompt goes on with a "
            "token. auto: attribution where a run has that alone, else effects.",
            "auto|effects|attribution",
            late=True,
        ),
    ] = "auto"
    min_effect: Annotated[
        float, Range(ge=0), Flag("--min-effect", "Smallest |mean effect| to draw; attributions have --edge-threshold.")
    ] = 0.0
    max_edges: Annotated[
        int,
        Range(ge=1),
        Flag("--max-edges", "Most mean effects to draw, the largest first; attributions have --nodes."),
    ] = 100
    group: Annotated[
        Literal["auto", "none"],
        Flag(
            "--group",
            "auto: features of an attribution whose edges are alike are proposed as a group; groups of your own count "
            "first.",
            "auto|none",
            late=True,
        ),
    ] = "none"
    formats: Annotated[
        tuple[str, ...],
        PlugIns("renderers"),
        Flag("--format", "A format to draw: {names} (repeat).", "FORMAT"),
    ] = ("html", "svg", "json", "dot")
    extend: Annotated[
        tuple[str, ...],
        Flag(
            "--extend",
            "An earlier circuit.json, or a run, whose graph this one is added to (repeat); none drops them.",
            "FILE|RUN|none",
        ),
    ] = ()
    labels: Annotated[
        str,
        Flag(
            "--labels",
            "Where labels of features come from: neuronpedia asks there for explanations; or a csv file of your own, "
            "with the header feature,label.",
            "neuronpedia|FILE|none",
        ),
    ] = "none"


@dataclass(frozen=True, kw_only=True)
class Validate:
    """[validate]: what a circuit is judged on, and beside what."""

    __pydantic_config__ = _TABLE
    prompts: Annotated[
        str,
        Flag(
            "--prompts",
            "What a circuit is judged on: a .jsonl file of questions, on each line an object with prompt and, if "
            "wanted, target, against and counterfactual, or with question, choices and answer; or a file of text, as "
            "--text takes it. none: what the run itself was asked, if it was, else text of its source that isn't in "
            "its sample.",
            "FILE",
            late=True,
        ),
    ] = ""
    column: Annotated[
        str,
        Flag(
            "--column",
            "The column that holds the texts, in a file of text; auto takes `text`, or the only one of strings.",
            "NAME",
            late=True,
        ),
    ] = "auto"
    metric: Annotated[
        Literal["auto", "logprob", "kl"],
        Flag(
            "--metric",
            "What is measured. logprob: how likely the target is, the right choice beside the best wrong one, or in "
            "text the token that follows. kl: how far the next token's distribution is from the model's, negated. "
            "auto: logprob.",
            "auto|logprob|kl",
            late=True,
        ),
    ] = "auto"
    baseline: Annotated[
        Literal["auto", "zero", "mean", "resample", "patch"],
        Flag(
            "--baseline",
            "What replaces what lies outside the circuit. zero: 0. mean: its mean. resample: what it is at a random "
            "other position of the text. patch: what it is in the counterfactual. auto: patch where there is one, else "
            "zero.",
            "auto|zero|mean|resample|patch",
            late=True,
        ),
    ] = "auto"
    split: Annotated[
        float,
        Range(gt=0, lt=1),
        Flag(
            "--split",
            "The share of examples on which features are ranked (discovery); the circuit is judged on the others "
            "(evaluation).",
            late=True,
        ),
    ] = 0.5
    circuit: Annotated[
        str,
        Flag(
            "--circuit",
            "The circuit to judge: a circuit.json, or a run. auto: the run's own graph, if there is one. none: what "
            "measuring finds.",
            "FILE|RUN|none",
            late=True,
        ),
    ] = "auto"
    pinned: Annotated[
        tuple[str, ...],
        Flag(
            "--pin",
            "A feature of the circuit to judge: `4:112` or `4.resid_post.112` (repeat).",
            "FEATURE",
            late=True,
        ),
    ] = ()
    nodes: Annotated[
        int,
        Range(ge=1),
        Flag("--nodes", "Features of the circuit that measuring finds, where none is given.", late=True),
    ] = 30
    sizes: Annotated[
        tuple[Annotated[int, Range(ge=1)], ...],
        Flag(
            "--size", "A number of features at which to judge, beside fractions of them all (repeat).", "N", late=True
        ),
    ] = ()
    draws: Annotated[
        int, Range(ge=1, le=1000), Flag("--draws", "Random circuits of each size to compare with.", late=True)
    ] = 5
    candidates: Annotated[
        int,
        Range(ge=1),
        Flag("--candidates", "Most features, the strongest estimates, whose effects are measured.", late=True),
    ] = 400
    num_examples: Annotated[
        int, Range(ge=2), Flag("--num-examples", "Most examples; of more a random choice.", late=True)
    ] = 200
    audit: Annotated[
        tuple[str, ...],
        Flag(
            "--audit",
            "A feature of which to say whether the model needs it, in the circuit or not: `4:112` or "
            "`4.resid_post.112` (repeat); none drops them.",
            "FEATURE|none",
            late=True,
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Stability:
    """[stability]: how often a discovery is repeated, and over what."""

    __pydantic_config__ = _TABLE
    seeds: Annotated[
        int,
        Range(ge=0, le=1000),
        Flag("--seeds", "Discoveries with different seeds, the run's own among them; 0: none.", late=True),
    ] = 5
    halves: Annotated[
        int,
        Range(ge=0, le=1000),
        Flag(
            "--halves",
            "Discoveries on random halves of the sequences, or of the questions of an attribution; each two are both "
            "halves of one cut. 0: none.",
            late=True,
        ),
    ] = 4
    interventions: Annotated[
        str,
        Flag(
            "--interventions",
            "Discoveries with different interventions, of an attribution with different baselines: their names with "
            "commas between them. auto: zero, mean and resample, and the run's own; none: no such discoveries.",
            "NAME,NAME|none",
            late=True,
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Executor:
    """[executor]: where shards are computed. It decides no number, and no run keeps it."""

    __pydantic_config__ = _TABLE
    name: Annotated[
        str,
        PlugIns("executors", beside=("auto",)),
        Flag(
            "--executor",
            "Where shards are computed: {names}. local: in this process. auto: dask where a scheduler or a cluster is "
            "named, else local.",
            "auto|{names}",
            late=True,
        ),
    ] = "auto"
    scheduler: Annotated[
        str,
        Flag("--scheduler", "The Dask scheduler whose workers compute, as it prints it.", "tcp://HOST:PORT", late=True),
    ] = ""
    cluster: Annotated[
        str,
        Flag(
            "--cluster",
            "Dask workers to start, for as long as the command takes. local:N: N processes here. gpu: one for each GPU "
            "here. slurm, pbs, lsf, sge: jobs of that batch system, as the configuration of dask-jobqueue says.",
            "local:N|gpu|slurm|pbs|lsf|sge",
            late=True,
        ),
    ] = ""
    options: Annotated[
        tuple[str, ...],
        Flag(
            "--cluster-option",
            "What a cluster is started with (repeat), as dask-jobqueue calls it: queue=long, cores=8; maximum_jobs=N "
            "is how many jobs there may be.",
            "KEY=VALUE",
            late=True,
        ),
    ] = ()
    mixed: Annotated[
        Truth,
        Flag(
            "--mixed",
            "Whether workers with other versions, or another kind of device, may compute too: last bits may differ.",
            late=True,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run, checked and frozen."""

    __pydantic_config__ = _TABLE
    model: Annotated[
        str, Flag("--model", "demo, gpt2, or any name or local folder that TransformerLens loads.", "NAME|DIR")
    ] = "demo"
    model_revision: Annotated[
        str, Flag("--model-revision", "Branch, tag or commit of the model's repository on the hub.", "REVISION")
    ] = "main"
    seed: Annotated[int, Range(ge=0, le=2**32 - 1), Flag("--seed", "Decides every random draw.")] = 0
    allow_misfit: Annotated[
        Truth, Flag("--allow-misfit", "Whether to go on with SAEs that don't fit the model (see `circuit doctor`).")
    ] = False
    runtime: Runtime = field(default_factory=Runtime)
    saes: Saes = field(default_factory=Saes)
    texts: Texts = field(default_factory=Texts)
    contexts: Contexts = field(default_factory=Contexts)
    features: Features = field(default_factory=Features)
    ablate: Ablate = field(default_factory=Ablate)
    effects: Effects = field(default_factory=Effects)
    attribute: Attribute = field(default_factory=Attribute)
    graph: Graph = field(default_factory=Graph)
    validate: Validate = field(default_factory=Validate)
    stability: Stability = field(default_factory=Stability)
    executor: Executor = field(default_factory=Executor)
