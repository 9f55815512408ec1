/* The card of a feature: what fires it, and what it does to the next token. */

function card(box) {
  const { node } = box;
  const head = make("div", { className: "card-head" }, make("strong", {}, isolated(text(box.id))));
  if (!node) return make("div", {}, head, make("p", { className: "facts" }, "Nothing else is known of it."));
  const parts = [head, ...named(node), ...longFacts(node).map((line) => make("p", { className: "facts" }, line))];
  if (node.members) parts.push(memberList(node));
  parts.push(...node.contexts.map((context) => contextLine(context, node.max_activation)));
  parts.push(...tokenLine("promotes", "raises", node.promoted), ...tokenLine("suppresses", "lowers", node.suppressed));
  const address = neuronpedia(node);
  if (address) {
    const link = make("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, "Neuronpedia");
    parts.push(make("p", { className: "facts" }, link));
  }
  return make("div", {}, ...parts);
}

/* Its label and group, if it has any. */
function named(node) {
  const parts = [];
  if (node.label) parts.push(make("div", { className: "card-label" }, isolated(text(node.label))));
  if (node.group && !node.members) parts.push(make("div", { className: "card-group" }, "group ", isolated(text(node.group))));
  if (node.change) parts.push(make("div", { className: node.change }, CHANGES.get(node.change) ?? node.change));
  return parts;
}

function longFacts(node) {
  if (node.attribution) {
    return [...longEffects(node), ...survives(node), node.kind === "feature" ? sampled(node) : ""].filter(Boolean);
  }
  const parts = [
    placeOf(node),
    `density ${percent(node.density)}`,
    `largest activation ${number(node.max_activation)}`,
    node.kl_mean === null ? "KL not measured" : `KL ${number(node.kl_mean)} nats`,
    `n = ${node.n}`,
  ];
  if (node.pos !== null) parts.push(`position ${node.pos}`);
  if (node.pinned) parts.push("pinned by the run");
  return [[...parts, ...survives(node)].join(" · ")];
}

/* Where it stands; of a transcoder's feature also where it writes. */
function placeOf({ layer, site, writes }) {
  if (!writes?.length) return `layer ${layer} · ${text(site)}`;
  const written = writes.length > 1 ? `${text(writes[0])} … ${text(writes.at(-1))}` : text(writes[0]);
  return `reads ${layer}.${text(site)}, writes ${written}`;
}

/* What a feature is beyond the prompt. */
function sampled(node) {
  const parts = node.max_activation > 0 ? [`density ${percent(node.density)}`, `largest activation ${number(node.max_activation)}`] : [];
  return [...parts, ...(node.pinned ? ["pinned"] : [])].join(" · ");
}

/* The nodes that a folded group stands for, with their effects. */
function memberList({ members }) {
  const items = members.map((box) => make("li", {}, isolated(called(box)), " ", effectOf(box.node)));
  return make("ul", { className: "members" }, ...items);
}

function effectOf(node) {
  return make("span", { className: signOf(node.attribution.effect) }, effectInWords(node));
}

/* One context: tokens shaded by activation, the firing one bold. */
function contextLine(context, largest) {
  const line = make("div", { className: "context", dir: "ltr" });
  context.tokens.forEach((_, i) => {
    const mark = make("mark", {}, isolated(runningText(context, i)));
    const share = largest > 0 ? Math.min(1, context.activations[i] / largest) : 0;
    if (share > 0) mark.style.backgroundColor = `color-mix(in srgb, var(--shade) ${Math.round(100 * share)}%, transparent)`;
    if (share > 0.5) mark.style.color = "var(--on-shade)";
    if (i === context.firing) mark.style.fontWeight = "bold";
    mark.title = `activation ${number(context.activations[i])}`;
    line.append(mark);
  });
  return line;
}

/* Of a prompt's run, what ablation does to a token's probability, where that is known. */
function chance({ prob_effect_mean: change }) {
  if (!PAGE.numbers || (change ?? null) === null) return "";
  return Math.abs(change) < 5e-5 ? ", Δp ≈ 0" : `, Δp ${change > 0 ? "+" : "−"}${Math.abs(change).toFixed(4)}`;
}

function tokenLine(word, color, effects) {
  if (!effects.length) return [];
  const line = make("div", { className: `tokens ${word}` }, make("span", { className: color }, `${word}, nats${PAGE.numbers ? " and probability (Δp)" : ""} `));
  for (const effect of effects) {
    line.append(make("span", { className: "token" }, isolated(ALONE.get(effect.token)), ` ${signed(effect.effect_mean)}${chance(effect)}`));
  }
  return [line];
}
