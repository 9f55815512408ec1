/* The side: search results, sliders and filters, the pinned feature with its causes and consequences, and groups. */

const LISTED = 50; // search results, and rows of a table before "more"
const STEPS = 1000; // of the slider for the least effect

/* Pin a feature, or with null show all again. */
function pin(box) {
  if (state.pinned === null && box) pin.view = { zoom: cy.zoom(), pan: { ...cy.pan() } };
  state.pinned = box;
  state.focused = box ?? state.focused;
  hideCard();
  scatter();
  refresh();
  if (box) {
    fit();
    if (cy.zoom() < COMFORT) gather(box);
    if (arranged.rows) fit();
  } else if (pin.view) cy.viewport(pin.view);
  redraw();
  showPinned();
  say(box ? `Pinned ${text(box.id)}` : "All features are shown");
}

function showPinned() {
  const box = state.pinned;
  byId("pinned").hidden = !box;
  if (!box) return;
  byId("pinned-heading").replaceChildren(isolated(text(box.id)));
  byId("label").value = box.node?.label ?? "";
  byId("label").disabled = !box.node;
  byId("causes").replaceChildren(...effects("Causes", "what ablating them does to it, SAE units", box.causes, "source"));
  byId("consequences").replaceChildren(...effects("Consequences", "what ablating it does to them, SAE units", box.consequences, "target"));
  byId("details").replaceChildren(make("h3", {}, "Feature"), card(box));
  byId("pinned").scrollIntoView({ block: "nearest" });
}

/* The table of a feature's effects on one side, those that are shown, the largest first. */
function effects(title, meaning, all, end) {
  const list = all.filter((each) => each.shown);
  const heading = make("h3", {}, title, make("span", { className: "facts" }, ` ${meaning}`));
  if (!list.length) return [heading, make("p", { className: "facts" }, all.length ? "None is shown: see the sliders." : "None was measured and drawn.")];
  const names = ["feature", "effect", "95% interval", "n"].map((name) => make("th", { scope: "col" }, name));
  const body = make("tbody", {}, ...list.slice(0, LISTED).flatMap((each) => effectRows(each, each[end])));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...names)), body);
  if (list.length <= LISTED) return [heading, table];
  const more = button(`all ${list.length.toLocaleString("en")}`, () => {
    body.append(...list.slice(LISTED).flatMap((each) => effectRows(each, each[end])));
    more.remove();
  });
  return [heading, table, more];
}

/* One effect, and below it what earlier runs measured. */
function effectRows({ edge }, other) {
  const color = edge.effect_mean > 0 ? "raises" : "lowers";
  const label = other.node?.label ? `${text(other.id)} ${text(other.node.label)}` : text(other.id);
  const name = make("td", {}, button(label, () => pin(other)));
  if (edge.change) name.append(make("span", { className: `change ${edge.change}` }, edge.change));
  const row = make("tr", {}, name, make("td", { className: color, title: color }, signed(edge.effect_mean)), ...rest(edge));
  const older = (edge.older ?? []).map((earlier) => {
    const source = isolated(`earlier: ${cut(text(earlier.run), 60)}, ${cut(text(earlier.created), 10)}`);
    const cells = [make("td", {}, source), make("td", {}, signed(earlier.effect_mean)), ...rest(earlier)];
    return make("tr", { className: "older" }, ...cells);
  });
  return [row, ...older];
}

function rest(measurement) {
  return [make("td", {}, interval(measurement)), make("td", {}, String(measurement.n))];
}

function showFound() {
  const found = [...state.found];
  byId("found").textContent = state.query ? `${found.length.toLocaleString("en")} found` : "";
  const items = found.slice(0, LISTED).map((box) => {
    const label = box.node?.label ? `${text(box.id)} ${text(box.node.label)}` : text(box.id);
    return make("li", {}, button(label, () => pin(box)));
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
  refresh();
  showPinned();
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
        showPinned();
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
    : "Select features with shift and a click, or Space.";
  byId("make-group").disabled = !chosen.length;
  redraw();
}

function showGroups() {
  const members = new Map();
  for (const box of ORDER.filter((each) => each.node?.group)) members.set(box.node.group, [...(members.get(box.node.group) ?? []), box]);
  const items = [...members].map(([name, boxes]) =>
    make("li", {}, button(`${text(name)} (${boxes.length})`, () => {
      cy.elements().unselect();
      for (const box of boxes) box.element.select();
      fit(boxes.filter((box) => box.shown));
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
