/* Which boxes and arrows are shown: by the sliders, the filters and the chosen feature. */

const state = {
  chosen: null, // the box of which only causes and consequences are shown, or of a prompt stay lit
  focused: null, // the box that the pointer or the keyboard is on
  query: "",
  found: new Set(), // boxes that the search found
  least: 0,
  count: EDGES.length,
  influence: Infinity, // at most, of nodes of a prompt
  pinnedOnly: false,
  layers: new Set(CIRCUIT.nodes.filter(hasSite).map((node) => node.layer)),
  sites: new Set(CIRCUIT.nodes.filter(hasSite).map((node) => node.site)),
  changes: new Set(CHANGES.keys()),
};

/* Work out what is shown, and tell the graph what changed. */
function refresh() {
  const admitted = new Set(ORDER.filter(isAdmitted));
  let arrows = EDGES.filter((each, i) => isDrawn(each, i) && admitted.has(each.source) && admitted.has(each.target));
  if (state.influence < Infinity) arrows = onPaths(arrows);
  const joined = new Set(arrows.flatMap(({ source, target }) => [source, target]));
  if (state.chosen) joined.add(state.chosen);
  const drawn = new Set(arrows);
  cy.batch(() => {
    for (const each of EDGES) turn(each, drawn.has(each));
    for (const box of ORDER) turn(box, joined.has(box) || (admitted.has(box) && staysAlone(box)));
    if (ASKED) light();
  });
  byId("shown").textContent = `${drawn.size.toLocaleString("en")} of ${EDGES.length.toLocaleString("en")} arrows, ` +
    `${ORDER.filter((box) => box.shown).length.toLocaleString("en")} of ${ORDER.length.toLocaleString("en")} ${ASKED ? "nodes" : "features"}`;
  cy.renderer().hideEdgesOnViewport = drawn.size > FLUID;
  if (ASKED || EDGES.length > LED) leadArrows();
  thicken();
  redraw();
}

function isAdmitted(box) {
  const { node } = box;
  if (!node) return true;
  if (node.members) return node.members.some(isAdmitted);
  if (node.attribution && !(node.attribution.influence <= state.influence)) return false;
  if (state.pinnedOnly && !belongsToPinned(standIn(box))) return false;
  return !hasSite(node) || (state.layers.has(node.layer) && state.sites.has(node.site));
}

/* Whether a node is at a site that can be left out: a prompt's tokens and target are at none. */
function hasSite({ kind }) {
  return !ASKED || !ENDS.has(kind);
}

function isDrawn({ edge, size, source, target }, rank) {
  if (rank >= state.count || size < state.least) return false;
  if (CHANGES.size && !state.changes.has(became(edge))) return false;
  if (state.pinnedOnly && !isPinned(source) && !isPinned(target)) return false;
  return ASKED || !state.chosen || source === state.chosen || target === state.chosen;
}

/* A feature without any arrow in the document isn't hidden by the sliders, nor one that is pinned. */
function staysAlone(box) {
  if (state.pinnedOnly) return isPinned(box);
  return (ASKED ? state.influence === Infinity : !state.chosen) && !box.causes.length && !box.consequences.length;
}

function turn(thing, shown) {
  if (thing.shown === shown) return;
  thing.shown = shown;
  thing.element.toggleClass("off", !shown);
}

/* Draw what lies over the graph with the graph's next frame. */
function redraw() {
  cy.renderer().redrawHint("eles", true);
  cy.forceRender();
}

/* The boxes whose name, label, group, firing tokens or promoted and suppressed tokens hold the query. */
function search(query) {
  state.query = query.trim().toLowerCase();
  state.found = new Set(state.query ? ORDER.filter((box) => words(box).some((word) => word.includes(state.query))) : []);
}

function words(box) {
  const { id, node } = box;
  if (!node) return [id.toLowerCase()];
  if (node.members) return [node.group.toLowerCase(), ...node.members.flatMap(words)];
  const tokens = [
    ...(node.attribution ? [node.attribution.token] : []),
    ...node.contexts.map((context) => context.tokens[context.firing]),
    ...[...node.promoted, ...node.suppressed].map((effect) => effect.token),
  ];
  const found = [id, `${node.layer}:${node.feature}`, node.label ?? "", node.group ?? "", ...tokens, ...tokens.map((token) => ALONE.get(token))];
  return found.map((word) => word.toLowerCase());
}
