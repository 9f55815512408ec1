/* Which boxes and arrows are shown: by the sliders, the filters and the pinned feature. */

const state = {
  pinned: null, // the box of which only causes and consequences are shown
  focused: null, // the box that the pointer or the keyboard is on
  query: "",
  found: new Set(), // boxes that the search found
  least: 0,
  count: EDGES.length,
  layers: new Set(CIRCUIT.nodes.map((node) => node.layer)),
  sites: new Set(CIRCUIT.nodes.map((node) => node.site)),
  changes: new Set(CHANGES.keys()),
};

/* Work out what is shown, and tell the graph what changed. */
function refresh() {
  const admitted = new Set(ORDER.filter(isAdmitted));
  const joined = new Set(state.pinned ? [state.pinned] : []);
  const arrows = EDGES.map((each, i) => {
    const shown = isDrawn(each, i) && admitted.has(each.source) && admitted.has(each.target);
    if (shown) joined.add(each.source).add(each.target);
    return shown;
  });
  cy.batch(() => {
    EDGES.forEach((each, i) => turn(each, arrows[i]));
    for (const box of ORDER) turn(box, joined.has(box) || (admitted.has(box) && standsAlone(box)));
  });
  const drawn = arrows.filter(Boolean).length;
  byId("shown").textContent = `${drawn.toLocaleString("en")} of ${EDGES.length.toLocaleString("en")} arrows, ` +
    `${ORDER.filter((box) => box.shown).length.toLocaleString("en")} of ${ORDER.length.toLocaleString("en")} features`;
  cy.renderer().hideEdgesOnViewport = drawn > FLUID;
  if (EDGES.length > FLUID) leadArrows();
  thicken();
  redraw();
}

function isAdmitted({ node }) {
  return !node || (state.layers.has(node.layer) && state.sites.has(node.site));
}

function isDrawn({ edge, size, source, target }, rank) {
  if (rank >= state.count || size < state.least) return false;
  if (CHANGES.size && !state.changes.has(became(edge))) return false;
  return !state.pinned || source === state.pinned || target === state.pinned;
}

/* A feature without any arrow in the document isn't hidden by the sliders. */
function standsAlone(box) {
  return !state.pinned && !box.causes.length && !box.consequences.length;
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
  const tokens = [
    ...node.contexts.map((context) => context.tokens[context.firing]),
    ...[...node.promoted, ...node.suppressed].map((effect) => effect.token),
  ];
  const found = [id, `${node.layer}:${node.feature}`, node.label ?? "", node.group ?? "", ...tokens, ...tokens.map((token) => ALONE.get(token))];
  return found.map((word) => word.toLowerCase());
}
