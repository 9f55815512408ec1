/* Ties it together: the card under the pointer, clicks, edits, saving. */

const DWELL_MS = 120; // on a box, before its card shows
const LINGER_MS = 250; // so that the pointer can reach the card
const SETTLED_MS = 150; // after which the view counts as at rest
const APART = 8; // pixels between a box and its card
const SMALL = matchMedia("(max-width: 800px)"); // as in page.css
let coming = 0;
let leaving = 0;
let settled = 0;

/* The card of a box, beside it. */
function showCard(box) {
  clearTimeout(leaving);
  const holder = byId("card");
  if (showCard.of !== box || holder.hidden) holder.replaceChildren(card(box));
  showCard.of = box;
  holder.hidden = false;
  putBeside(holder, onScreen(box));
}

/* To the right of a frame, to the left, below or above, wherever there is room; over it only if there is none. */
function putBeside(holder, { left, top, width, height }) {
  const [across, down] = [byId("stage").clientWidth, byId("stage").clientHeight];
  const [wide, high] = [holder.offsetWidth, holder.offsetHeight];
  const spots = [
    [left + width + APART, top],
    [left - wide - APART, top],
    [left, top + height + APART],
    [left, top - high - APART],
  ];
  const fits = ([x, y], i) => (i < 2 ? x >= 0 && x + wide <= across : y >= 0 && y + high <= down);
  const spot = spots.find(fits);
  const [x, y] = spot ?? spots[0];
  holder.style.left = `${Math.max(0, Math.min(x, across - wide))}px`;
  holder.style.top = `${Math.max(0, Math.min(y, down - high))}px`;
  holder.style.pointerEvents = spot ? "" : "none"; // over the box it mustn't catch the click
}

function hideCard() {
  clearTimeout(coming);
  clearTimeout(leaving);
  byId("card").hidden = true;
}

function hideCardSoon() {
  clearTimeout(coming);
  clearTimeout(leaving);
  leaving = setTimeout(hideCard, LINGER_MS);
}

function listenToGraph() {
  cy.on("render", drawOverlay);
  cy.on("mouseover", "node", (event) => {
    const box = boxOf(event.target);
    clearTimeout(coming);
    coming = setTimeout(() => {
      state.focused = box;
      showCard(box);
      redraw();
    }, DWELL_MS);
  });
  cy.on("mouseout", "node", hideCardSoon);
  cy.on("tapstart", hideCard);
  cy.on("viewport", () => {
    hideCard();
    clearTimeout(settled);
    settled = setTimeout(thicken, SETTLED_MS);
  });
  cy.on("tap", "node", (event) => {
    const { shiftKey, ctrlKey, metaKey } = event.originalEvent;
    if (!shiftKey && !ctrlKey && !metaKey) choose(boxOf(event.target));
  });
  cy.on("select unselect", "node", () => soon.selection ??= requestAnimationFrame(() => {
    soon.selection = null;
    showSelection();
  }));
  byId("card").addEventListener("mouseenter", () => clearTimeout(leaving));
  byId("card").addEventListener("mouseleave", hideCardSoon);
  byId("graph").addEventListener("keydown", onGraphKey);
  document.addEventListener("keydown", onAnyKey);
  new ResizeObserver(() => cy.resize()).observe(byId("graph"));
}

function listenToControls() {
  byId("fit").addEventListener("click", () => fit());
  byId("zoom-in").addEventListener("click", () => zoomBy(1.25));
  byId("zoom-out").addEventListener("click", () => zoomBy(0.8));
  byId("unchoose").addEventListener("click", () => choose(null));
  byId("save").addEventListener("click", save);
  byId("theme").addEventListener("click", () => dress(!isDark()));
  DARK.addEventListener("change", (event) => dress(event.matches));
  byId("search").addEventListener("input", () => soon(() => {
    search(byId("search").value);
    showFound();
    redraw();
  }));
  byId("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && state.found.size) choose([...state.found][0]);
  });
  byId("label").addEventListener("input", () => {
    edit(state.chosen, "label", byId("label").value);
    soon(redraw);
  });
  byId("label").addEventListener("change", showChosen);
  byId("make-group").addEventListener("click", group);
  byId("group").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && selected().length) group();
  });
}

/* Put what is selected in the named group. */
function group() {
  for (const box of selected().flatMap((one) => one.node.members ?? [one])) edit(box, "group", byId("group").value);
  if (ASKED) fold(FOLDED);
  showGroups();
  showChosen();
  redraw();
}

/* Change the theme of the page and of what is drawn on canvas. */
function dress(dark) {
  wear(dark);
  forgetPictures();
  cy.style(looks());
  redraw();
}

function markUnsaved(unsaved) {
  markUnsaved.yes = unsaved;
  byId("save").textContent = unsaved ? "Save circuit.json •" : "Save circuit.json";
}

/* The document with the labels and groups as they are now, as a download. */
function save() {
  const file = new Blob([JSON.stringify(CIRCUIT, null, 2), "\n"], { type: "application/json" });
  const link = make("a", { href: URL.createObjectURL(file), download: "circuit.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  markUnsaved(false);
}

addEventListener("beforeunload", (event) => {
  if (markUnsaved.yes) event.preventDefault();
});

/* The legend: of a difference the colours of changes in place of those of signs; in a small window below the rest. */
function prepareLegend() {
  const arrow = (name) => make("span", { className: name, ariaHidden: "true" }, name === "lost" ? "⇢" : "➔");
  if (CHANGES.size) {
    for (const line of document.querySelectorAll("#legend .sign")) line.remove();
    byId("legend").prepend(...[...CHANGES].map(([name, meaning]) => make("li", {}, arrow(name), ` ${meaning}`)));
  }
  if (PAGE.survival) for (const part of document.querySelectorAll("#legend .of-lines")) part.textContent = PAGE.survival;
  const put = () => SMALL.matches ? byId("help").after(byId("legend")) : byId("about").after(byId("legend"));
  SMALL.addEventListener("change", put);
  put();
}

for (const id of ["title", "settings", "origin", "share", "calibration", "validation"]) byId(id).textContent = PAGE[id];
if (PAGE.warning) byId("warning").append("⚠ ", ...withCommands(PAGE.warning));
prepareLegend();
listenToGraph();
listenToControls();
leadArrows();
prepareAsked();
prepareSliders();
prepareFilters();
showSelection();
showGroups();
cy.resize(); // the header has its text now
fit();
