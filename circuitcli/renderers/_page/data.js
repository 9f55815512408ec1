/* The circuit and how its texts are shown, as the renderer embedded them. */

const PAGE = JSON.parse(document.getElementById("data").textContent);
const CIRCUIT = PAGE.document; // what "Save" writes: circuit.json's own document
const ASKED = CIRCUIT.metadata.attribution ?? null; // of a circuit of a prompt: the question

const RUNNING = new Map(PAGE.tokens.map(([token, running]) => [token, running]));
const ALONE = new Map(PAGE.tokens.map(([token, , alone]) => [token, alone]));

/* A token of a context; one without text takes no place, unless it fires. */
function runningText({ tokens, firing }, i) {
  return (tokens[i] || i !== firing ? RUNNING : ALONE).get(tokens[i]);
}

const TEXTS = new Map(PAGE.texts);

/* Every box by its name: the node (or only an id, where an edge's end is no node), its place, its edges. */
const BOXES = new Map(
  Object.entries(PAGE.boxes).map(([id, [x, y, width, height]]) => [
    id,
    { id, x, y, home: { x, y }, width, height, node: null, causes: [], consequences: [], shown: true },
  ]),
);
for (const node of CIRCUIT.nodes) BOXES.get(node.id).node = node;

/* An effect between two boxes. */
function arrow(edge, source, target) {
  return { edge, size: Math.abs(edge.effect_mean), source, target, shown: true };
}

/* All effects of the document. */
const EFFECTS = CIRCUIT.edges.map((edge) => arrow(edge, BOXES.get(edge.source), BOXES.get(edge.target)));
/* Of a difference: what its colours are called, and what they mean. Of another circuit it is empty. */
const CHANGES = new Map(PAGE.changes);

/* What became of an edge or a node of a difference. */
function became({ change }) {
  return change ?? "unchanged";
}

/* A name, label or group, with what a reader can't see made visible. */
function text(value) {
  return TEXTS.get(value) ?? value;
}

/* At most so many characters. */
function cut(value, limit) {
  const characters = Array.from(value);
  return characters.length > limit ? characters.slice(0, limit - 1).join("") + "…" : value;
}

/* Three significant digits, with a real minus sign. */
function number(value, digits = 3) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(digits))).replaceAll("-", "−") : "–";
}

/* The same with its sign. */
function signed(value) {
  return `${value > 0 ? "+" : ""}${number(value)}`;
}

/* A share as a percentage of two significant digits. */
function percent(share, digits = 2) {
  return `${Number((share * 100).toPrecision(digits))}%`;
}

function interval({ ci_low: low, ci_high: high }) {
  return low === null || high === null ? "–" : `[${number(low)}, ${number(high)}]`;
}

/* What is known of a feature, in a few words. */
function facts(node) {
  if (ASKED) return effectInWords(node);
  const parts = node.pinned ? ["pinned"] : [];
  parts.push(node.kind === "feature" ? `fires ${percent(node.density)}` : text(node.kind));
  if (node.kl_mean !== null) parts.push(`KL ${number(node.kl_mean, 2)}`);
  return [...parts, ...survives(node)].join(" · ");
}

/* How often a node or an edge comes up when the discovery is repeated, if that is known. */
function survives({ survival }) {
  return (survival ?? null) === null ? [] : [`survives ${Math.round(100 * survival)}%`];
}

/* The address of a feature's page, if it is one of Neuronpedia's. */
function neuronpedia(node) {
  return node.neuronpedia?.startsWith("https://www.neuronpedia.org/") ? node.neuronpedia : null;
}
