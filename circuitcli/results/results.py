"""A finished run for Python: its tables as DataFrames, its graph, and cards of its features."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core import rows
from circuitcli.core.contexts import Firings
from circuitcli.core.sites import FeatureId
from circuitcli.errors import UsageError
from circuitcli.results.reader import Reader
from circuitcli.store import acts, reduced

if TYPE_CHECKING:
    import networkx
    import pandas

    from circuitcli.results.attribution import Attributed
    from circuitcli.results.cards import Card
    from circuitcli.results.stability import Stability
    from circuitcli.results.validation import Validated


class Results(Reader):
    """What a run has finished. Nothing is computed anew, no model is loaded, and nothing of the run is changed.

    Each table is read once. In every one an effect is ablated − clean, and a feature is named by its `layer`, `site`
    and `feature` (its index in the dictionary of that site). `planned` says of a feature whether the run's present
    settings lead to it; what was ablated for earlier ones stays.

    Attributes:
        settings: Those of the run.
        saes: Its dictionaries, in the model's order.
        widths: How many features the dictionary of each site has.
        ablated: The features that were ablated.
        planned: Those of them that the present settings lead to.
        attribution: Why its prompts go on as they do.
        validation: How much its circuit carries.
        stability: How often its discovery comes to the same.
    """

    def __repr__(self) -> str:
        return f"<the run {self.run.title}: {self.settings.model}, {self.settings.saes.release}>"

    def effects(self) -> pandas.DataFrame:
        """The mean effect of each ablated feature on each feature that it changed anywhere.

        Columns: `up_layer`, `up_site`, `up_feature`: the one that was ablated; `down_layer`, `down_site`,
        `down_feature`: the one that was read; `n`: contexts; `effect_mean`: mean over all n contexts, in SAE units of
        the one read; `effect_std`: its standard deviation over contexts; `ci_low`, `ci_high`: the 95% bootstrap
        interval, NaN where all contexts lie in one sequence; `planned`.

        Raises:
            InputError: The effects stage isn't done.
        """
        return self._frame(reduced.EFFECTS, planned=self.in_plan(reduced.EFFECTS))

    def logits(self) -> pandas.DataFrame:
        """What ablating each feature does to the next token: its strongest promoted and suppressed tokens.

        Columns: `layer`, `site`, `feature`; `token_id`, `token`; `effect_mean`: mean over contexts of the change of its
        log-probability, nats; `prob_effect_mean`: of its probability; `n`: contexts; `rank`: 1, 2, … of the promoted
        (the effect is negative), −1, −2, … of the suppressed. No rows without logits.

        Raises:
            InputError: The effects stage isn't done.
        """
        return self._frame(reduced.LOGITS)

    def features(self) -> pandas.DataFrame:
        """Every feature of every dictionary, whether it fires or not.

        Columns: `layer`, `site`, `feature`; `n_active`: positions at which it fires; `density`: their share of those
        that count; `max_activation`, `mean_activation`: SAE units, the mean over all counted positions; `n`: contexts
        at which it was ablated, 0 if it wasn't; `kl_mean`: mean KL(clean ‖ ablated) of the next token, nats, and
        `out_abs_effect`: Σ |mean effect| on features downstream, NaN if it wasn't ablated; `planned`.

        Raises:
            InputError: The effects stage isn't done.
        """
        statistics, totals = self.table(acts.FEATURES), self.table(reduced.FEATURES)
        at = rows.match([rows.keys(statistics)], [rows.keys(totals)])
        ablated = {
            "n": np.append(totals["n"], np.int32(0))[at],
            **{name: np.append(totals[name], np.float32(np.nan))[at] for name in ("kl_mean", "out_abs_effect")},
        }
        return self._frame(acts.FEATURES, **ablated, planned=rows.among(statistics, self.planned))

    def contexts(self) -> pandas.DataFrame:
        """The top contexts of every feature: where in the text it is strongest.

        Columns: `layer`, `site`, `feature`; `rank`: from 0, the strongest; `seq`, `pos`: sequence and position, the BOS
        counted where there is one; `activation`: SAE units; `token`: the text at that position.

        Raises:
            InputError: The cache-acts stage isn't done.
        """
        from circuitcli.results import passages

        table, texts = self.table(acts.CONTEXTS), passages.read(self)
        lengths = [len(texts.get(seq, ())) for seq in range(max(texts) + 1)]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        tokens = np.asarray([token for seq in sorted(texts) for token in texts[seq]], dtype=object)
        return self._frame(acts.CONTEXTS, token=tokens[starts[table["seq"]] + table["pos"]])

    def activations(self, layer: int, site: str) -> pandas.DataFrame:
        """Every activation of one dictionary that isn't 0, in the order of the text; position 0 is never counted.

        Columns: `seq`, `pos`: sequence and position; `feature`; `value`: SAE units.

        Raises:
            UsageError: The run has no dictionary there.
            InputError: The cache-acts stage isn't done.
        """
        import pandas

        at = next((known for known in self.widths if (known.layer, known.name) == (layer, site)), None)
        if at is None:
            known = ", ".join(map(str, self.widths))
            raise UsageError(f"The run has no dictionary at {layer}.{site}.", hint=f"It has {known}.")
        found = Firings.concat(list(acts.shards(self.run, at)))
        return pandas.DataFrame({name: getattr(found, name) for name in ("seq", "pos", "feature", "value")})

    @cached_property
    def attribution(self) -> Attributed:
        """Why the run's prompts go on as they do: `nodes()`, `edges()` and `calibration()` are DataFrames.

        Whatever is asked of it raises an InputError if the attribute stage isn't done.
        """
        from circuitcli.results.attribution import Attributed

        return Attributed(self)

    @cached_property
    def validation(self) -> Validated:
        """How much the run's circuit carries: `curves()`, `nodes()`, `areas()` and `examples()` are DataFrames.

        Whatever is asked of it raises an InputError if the validate stage isn't done.
        """
        from circuitcli.results.validation import Validated

        return Validated(self)

    @cached_property
    def stability(self) -> Stability:
        """How often the run's discovery comes to the same: `survival()` is a DataFrame, `words()` says it.

        Whatever is asked of it raises an InputError if the stability stage isn't done.
        """
        from circuitcli.results.stability import Stability

        return Stability(self)

    def graph(self) -> networkx.DiGraph[str]:
        """The circuit, of what `graph.of` says: of mean effects, or of the attribution of prompts.

        Of mean effects it has the largest ones of the plan, and the features that they join. Nodes are called
        `layer.site.index`, and have what a `Node` has, such as `density`, `max_activation`, `kl_mean`, `n`, `pinned`,
        `promoted`, `suppressed` and `label`; edges have `effect_mean` (SAE units of the target), `ci_low`, `ci_high`
        and `n`; the graph itself has the metadata of circuit.json.

        Of prompts nodes are called as in `attribution.nodes()`, and have besides `pos` and what they do: `attribution`,
        with `token`, `activation`, `effect`, `method` and `influence`. Edges have a `weight`: what replacing the source
        does to the metric through the target alone, and its `method`.

        Raises:
            InputError: The effects, or the attribute, stage isn't done.
        """
        import networkx

        from circuitcli.results.circuit import of_run

        circuit = of_run(self)
        drawn: networkx.DiGraph[str] = networkx.DiGraph(**circuit.metadata.to_dict())
        for node in circuit.nodes:
            drawn.add_node(node.id, **{name: value for name, value in vars(node).items() if name != "id"})
        for edge in circuit.edges:
            about = asdict(edge)
            if circuit.metadata.attribution is not None:
                about["weight"] = about.pop("effect_mean")
            drawn.add_edge(about.pop("source"), about.pop("target"), **about)
        return drawn

    def feature(self, name: str | FeatureId) -> Card:
        """The card of one feature: `2.resid_post.749`, `2:749` in a run of one site, or one of `ablated`.

        `feature` is its node (contexts, density, promoted and suppressed tokens), `causes` and `consequences` its
        largest mean effects, `note` says what isn't known of it and why.

        Raises:
            UsageError: The run has no such feature.
            InputError: The effects stage isn't done.
        """
        from circuitcli.results.cards import cards

        [card] = cards(self, self.named([name]))
        return card

    def _frame(self, table: str, **more: np.ndarray) -> pandas.DataFrame:
        """A table, and columns beside its own; a copy, which is the caller's."""
        import pandas

        return pandas.DataFrame({**self.table(table), **more}, copy=True)
