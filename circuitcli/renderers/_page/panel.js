/* The side: search results, sliders and filters, the chosen feature with its causes and consequences, and groups. */

const LISTED = 50; // search results, and rows of a table before "more"
const STEPS = 1000; // of the slider for the least effect

/* Choose a feature, or with null show all again. */
function choose(box) {
  if (state.chosen === null && box) choose.view = { zoom: cy.zoom(), pan: { ...cy.pan() } };
  state.chosen = box;
  state.focused = box ?? state.focused;
  hideCard();
  scatter();
  refresh();
  if (ASKED) bringIntoView(box);
  else if (box) {
    fit();
    if (cy.zoom() < COMFORT) gather(box);
    if (arranged.rows) fit();
  } else if (choose.view) cy.viewport(choose.view);
  redraw();
  showChosen();
  say(box ? `${ASKED ? "Opened" : "Pinned"} ${text(box.id)}` : `All ${ASKED ? "nodes are lit" : "features are shown"}`);
}

function showChosen() {
  const box = state.chosen;
  byId("chosen").hidden = !box;
  if (!box) return;
  byId("chosen-heading").replaceChildren(isolated(text(box.id)));
  byId("label").value = box.node?.label ?? "";
  byId("label").disabled = !box.node || Boolean(box.node.members);
  const [causes, consequences] = ASKED ? WEIGHTS : MEANS;
  byId("causes").replaceChildren(...effects(...causes, box.causes, "source"));
  byId("consequences").replaceChildren(...effects(...consequences, box.consequences, "target"));
  byId("details").replaceChildren(make("h3", {}, ASKED ? "Node" : "Feature"), card(box));
  if (ASKED) showPinOf(box);
  byId("chosen").scrollIntoView({ block: "nearest" });
}

/* What the two tables are called, and what is in them. */
const MEANS = [
  ["Causes", "what ablating them does to it, SAE units"],
  ["Consequences", "what ablating it does to them, SAE units"],
];
const WEIGHTS = [
  ["What feeds it", `what replacing them does to the metric through it, ${UNIT}`],
  ["What it feeds", `what replacing it does to the metric through them, ${UNIT}`],
];

/* The table of a feature's effects on one side, those that are shown, the largest first. */
function effects(title, meaning, all, end) {
  const list = all.filter((each) => each.shown);
  const heading = make("h3", {}, title, make("span", { className: "facts" }, ` ${meaning}`));
  if (!list.length) return [heading, make("p", { className: "facts" }, all.length ? "None is shown: see the sliders." : "None was measured and drawn.")];
  const often = CIRCUIT.metadata.repeats ? ["survives"] : [];
  const names = [...(ASKED ? ["node", "weight", "share", ""] : ["feature", "effect", "95% interval", "n"]), ...often].map((name) => make("th", { scope: "col" }, name));
  const total = all.reduce((sum, { size }) => sum + size, 0);
  const rows = (some) => some.flatMap((each) => ASKED ? weightRow(each, each[end], total) : effectRows(each, each[end]));
  const body = make("tbody", {}, ...rows(list.slice(0, LISTED)));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...names)), body);
  if (list.length <= LISTED) return [heading, table];
  const more = button(`all ${list.length.toLocaleString("en")}`, () => {
    body.append(...rows(list.slice(LISTED)));
    more.remove();
  });
  return [heading, table, more];
}

/* One effect, and below it what earlier runs measured. */
function effectRows({ edge }, other) {
  const color = edge.effect_mean > 0 ? "raises" : "lowers";
  const name = make("td", {}, button(called(other), () => choose(other)));
  if (edge.change) name.append(make("span", { className: `change ${edge.change}` }, edge.change));
  const row = make("tr", {}, name, make("td", { className: color, title: color }, signed(edge.effect_mean)), ...rest(edge), ...often(edge));
  const older = (edge.older ?? []).map((earlier) => {
    const source = isolated(`earlier: ${cut(text(earlier.run), 60)}, ${cut(text(earlier.created), 10)}`);
    const cells = [make("td", {}, source), make("td", {}, signed(earlier.effect_mean)), ...rest(earlier)];
    return make("tr", { className: "older" }, ...cells);
  });
  return [row, ...older];
}

/* One weight, its share of all on this side, and how it was got unless it was measured. */
function weightRow({ edge, size }, other, total) {
  const color = signOf(edge.effect_mean);
  const cells = [
    make("td", {}, button(called(other), () => choose(other))),
    make("td", { className: color, title: color }, signed(edge.effect_mean)),
    make("td", {}, total ? percent(size / total) : "–"),
    make("td", { className: "facts" }, isEstimate(edge) ? `≈ ${edge.method}` : ""),
    ...often(edge),
  ];
  return make("tr", {}, ...cells);
}

/* How often it survives, where the discovery was repeated. */
function often({ survival = null }) {
  if (!CIRCUIT.metadata.repeats) return [];
  return [make("td", {}, survival === null ? "–" : `${Math.round(100 * survival)}%`)];
}

function rest(measurement) {
  return [make("td", {}, interval(measurement)), make("td", {}, String(measurement.n))];
}

function showFound() {
  const found = [...state.found];
  byId("found").textContent = state.query ? `${found.length.toLocaleString("en")} found` : "";
  const items = found.slice(0, LISTED).map((box) => {
    return make("li", {}, button(called(box), () => choose(box)));
  });
  byId("matches").replaceChildren(...items);
}

/* Sliders and their numbers; every value that the circuit has can be reached. */
function prepareSliders() {
  Object.assign(byId("least"), { min: 0, max: STEPS, step: 1, value: 0 });
  Object.assign(byId("count"), { min: 0, max: EDGES.length, step: 1, value: EDGES.length });
  byId("least").addEventListener("input", () => {
    state.least = (LARGEST * Number(byId("least").value)) / STEPS;
    soon(showSliders);
  });
  byId("count").addEventListener("input", () => {
    state.count = Number(byId("count").value);
    soon(showSliders);
  });
  showSliders();
}

function showSliders() {
  const [least, count] = [number(state.least), state.count.toLocaleString("en")];
  byId("least-value").textContent = least;
  byId("count-value").textContent = count;
  byId("least").setAttribute("aria-valuetext", `${least} at least`);
  byId("count").setAttribute("aria-valuetext", `${count} arrows at most`);
  if (ASKED) showInfluence();
  refresh();
  showChosen();
}

/* Do something once before the next frame, however often it is asked for until then. */
function soon(action) {
  if (soon.asked) return;
  soon.asked = true;
  requestAnimationFrame(() => {
    soon.asked = false;
    action();
  });
}

/* A box to tick for each layer and each site, and of a difference for what became of arrows. */
function prepareFilters() {
  byId("changes").hidden = !CHANGES.size;
  for (const [id, chosen, word] of [["layers", state.layers, String], ["sites", state.sites, text], ["changes", state.changes, String]]) {
    for (const value of [...chosen].sort({ layers: (a, b) => a - b, changes: () => 0 }[id])) {
      const tick = make("input", { type: "checkbox", checked: true });
      tick.addEventListener("change", () => {
        tick.checked ? chosen.add(value) : chosen.delete(value);
        refresh();
        showChosen();
      });
      byId(id).append(make("label", {}, tick, " ", isolated(word(value))), " ");
    }
  }
}

function selected() {
  return ORDER.filter((box) => box.node && box.element.selected());
}

function showSelection() {
  const chosen = selected();
  byId("selection").textContent = chosen.length
    ? `${chosen.length} selected. A name puts them in a group, no name takes them out.`
    : `Select ${ASKED ? "nodes" : "features"} with shift and a click, or Space.`;
  byId("make-group").disabled = !chosen.length;
  redraw();
}

function showGroups() {
  const members = new Map();
  for (const box of [...BOXES.values()].filter((each) => each.node?.group)) members.set(box.node.group, [...(members.get(box.node.group) ?? []), box]);
  const items = [...members].map(([name, boxes]) =>
    make("li", {}, button(`${text(name)} (${boxes.length})`, () => {
      const drawn = [...new Set(boxes.map(standIn))];
      cy.elements().unselect();
      for (const box of drawn) box.element.select();
      fit(drawn.filter((box) => box.shown));
    })),
  );
  byId("groups").replaceChildren(...items);
}

/* Give a feature a label or a group; an empty one takes it away. */
function edit(box, key, value) {
  const given = value.trim() || null;
  if (given === (box.node[key] ?? null)) return;
  fitRows(box);
  box.node[key] = given;
  fitRows(box);
  forgetPictures();
  markUnsaved(true);
}
