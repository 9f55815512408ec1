/* Words for nodes of a circuit of a prompt. */

const UNIT = ASKED ? text(ASKED.unit) : "SAE units";
const ENDS = new Set(["token", "target"]); // of paths

/* Its token, where it has one position. */
function tokenOf({ attribution }) {
  return attribution?.token ? ALONE.get(attribution.token) : "";
}

/* What a node is called in its box: its label or name, a token or target by its text. */
function shortName({ id, node }) {
  if (ENDS.has(node.kind)) return tokenOf(node) || text(id);
  if (node.kind === "group") return text(node.group);
  if (node.label) return text(node.label);
  const name = text(id).replace(/@\d+$/, "");
  return node.kind === "error" ? name.replace(/\.error$/, " error") : name;
}

/* The same from afar, where the row's name stands for layer and site. */
function briefName(box) {
  const { kind, label, feature } = box.node;
  if (kind === "error") return "error";
  return kind === "feature" && !label ? String(feature) : shortName(box);
}

/* What a box is called in lists: its name, its label, and of a prompt its token. */
function called({ id, node }) {
  const parts = [text(id)];
  if (node?.label) parts.push(text(node.label));
  if (node?.attribution && node.kind !== "group" && tokenOf(node)) parts.push(tokenOf(node));
  return parts.join(" ");
}

function isEstimate({ method }) {
  return Boolean(method) && method !== "exact";
}

/* `−0.9`: what replacing it does to the metric; of a target its probability. */
function amountOf({ kind, attribution: { effect = null, prob = null } }) {
  if (kind === "target") return prob === null ? "" : percent(prob, 3);
  return effect === null ? "" : signed(effect);
}

/* The same with its unit: `−0.9 nats`, `Σ −1.2 nats` of a group. */
function effectInUnits(node) {
  const amount = amountOf(node);
  if (!amount) return "";
  return node.kind === "target" ? `p = ${amount}` : `${node.kind === "group" ? "Σ " : ""}${amount} ${UNIT}`;
}

/* And how it was got, unless it was measured: `−0.9 nats ≈ atp`. */
function effectInWords(node) {
  return effectInUnits(node) + (isEstimate(node.attribution) ? ` ≈ ${node.attribution.method}` : "");
}

function colorOf(node) {
  return node.kind === "target" ? COLORS.ink : COLORS[signOf(node.attribution.effect)];
}

/* Red where replacing lowers the metric, blue where it raises it. */
function signOf(value) {
  return value > 0 ? "raises" : "lowers";
}

/* All that is known of what a node does in the prompt, a line each. */
function longEffects({ kind, pos, layer, site, writes, attribution: told, members }) {
  const at = pos === null || pos === undefined ? [] : [`position ${pos}`];
  if (told.token) at.push(ALONE.get(told.token));
  if (kind === "feature" || kind === "error") at.unshift(placeOf({ layer, site, writes }));
  if (kind === "error") at.push("error: what the dictionary leaves out");
  if ((told.token_id ?? null) !== null) at.push(`token id ${told.token_id}`);
  const lines = [at.join(" · ")];
  if (kind === "target") {
    lines.push([`clean ${number(told.activation)} ${UNIT}`, ...(told.prob === null ? [] : [`p = ${percent(told.prob, 3)}`])].join(" · "));
    return lines;
  }
  lines.push(members ? `${members.length} nodes` : activationInWords(kind, told));
  const how = isEstimate(told) ? `estimate by ${told.method}` : "measured";
  const share = ASKED.abs_effect ? `, ${percent(Math.abs(told.effect) / ASKED.abs_effect)} of all Σ|effect|` : "";
  const effect = members ? "effects add up to" : "effect";
  if ((told.effect ?? null) !== null) lines.push(`${effect} ${signed(told.effect)} ${UNIT} (${how})${share}`);
  if ((told.estimate ?? null) !== null && !isEstimate(told)) lines.push(`its estimate was ${signed(told.estimate)} ${UNIT}`);
  lines.push(`influence: among the first ${percent(told.influence)}`);
  return lines;
}

function activationInWords(kind, { activation, replacement }) {
  const what = kind === "feature" ? "activation" : "norm";
  const by = (replacement ?? null) === null ? "" : `, replaced by ${number(replacement)}`;
  return `${what} ${number(activation)}${by}`;
}
