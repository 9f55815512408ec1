/* The keyboard: everything that the pointer can do. */

/* Move to a box: bring it into view, show its card, and say where we are. */
function goTo(box) {
  if (!box) return;
  state.focused = box;
  bringIntoView(box);
  showCard(box);
  redraw();
  say(spoken(box));
}

function bringIntoView(box) {
  if (!box) return;
  const { left, top, width, height } = onScreen(box);
  const bottom = cy.height() - axisHeight(cy.zoom());
  if (left < 0 || top < 0 || left + width > cy.width() || top + height > bottom) cy.center(box.element);
}

function spoken(box) {
  const shown = (list) => list.filter((each) => each.shown).length;
  const label = box.node?.label ? `, ${text(box.node.label)}` : "";
  const known = box.node ? `, ${facts(box.node)}` : "";
  return `${text(box.id)}${label}${known}, causes ${shown(box.causes)}, consequences ${shown(box.consequences)}`;
}

/* Where the keyboard starts: the chosen feature, or the cause of the largest effect shown. */
function start() {
  return state.chosen ?? EDGES.find((each) => each.shown)?.source ?? ORDER.find((box) => box.shown);
}

/* The box at the other end of the strongest arrow shown. */
function along(list, end) {
  return list.find((each) => each.shown)?.[end];
}

/* The next box of the same row to the right or left. */
function beside(box, step) {
  const row = ORDER.filter((other) => other.shown && Math.abs(other.y - box.y) < 1).sort((a, b) => a.x - b.x);
  return row[row.indexOf(box) + step];
}

const ON_GRAPH = {
  ArrowUp: (box) => goTo(along(box.consequences, "target")),
  ArrowDown: (box) => goTo(along(box.causes, "source")),
  ArrowLeft: (box) => goTo(beside(box, -1)),
  ArrowRight: (box) => goTo(beside(box, 1)),
  Enter: (box) => choose(state.chosen === box ? null : box),
  " ": (box) => box.element.selected() ? box.element.unselect() : box.element.select(),
  p: (box) => ASKED && togglePin(box),
  f: () => fit(),
  "+": () => zoomBy(1.25),
  "-": () => zoomBy(0.8),
};

function onGraphKey(event) {
  const action = ON_GRAPH[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (state.focused?.shown || !event.key.startsWith("Arrow")) {
    const box = state.focused?.shown ? state.focused : start();
    if (box) action(box);
  } else goTo(start());
}

function onAnyKey(event) {
  if (event.key === "Escape") clearAll();
  else if (event.key === "/" && !event.target.matches("input")) {
    event.preventDefault();
    byId("search").focus();
  }
}

/* Escape: no card, no selection, no search, nothing chosen. */
function clearAll() {
  hideCard();
  cy.elements().unselect();
  byId("search").value = "";
  search("");
  showFound();
  if (state.chosen) choose(null);
  else redraw();
}
