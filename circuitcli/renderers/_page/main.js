/* Ties it together: the card under the pointer, clicks, edits, saving. */

const LINGER_MS = 250; // so that the pointer can reach the card
let leaving = 0;

/* The card beside its box, on the side where there is room. */
function showCard(box) {
  clearTimeout(leaving);
  const holder = find("card");
  if (showCard.of !== box || holder.hidden) holder.replaceChildren(card(box));
  showCard.of = box;
  holder.hidden = false;
  const { left, top, width } = onScreen(box);
  const [across, down] = [find("stage").clientWidth, find("stage").clientHeight];
  const right = left + width + 10;
  const x = right + holder.offsetWidth <= across ? right : left - holder.offsetWidth - 10;
  holder.style.left = `${Math.max(4, Math.min(x, across - holder.offsetWidth - 4))}px`;
  holder.style.top = `${Math.max(4, Math.min(top, down - holder.offsetHeight - 4))}px`;
}

function hideCard() {
  clearTimeout(leaving);
  find("card").hidden = true;
}

function hideCardSoon() {
  clearTimeout(leaving);
  leaving = setTimeout(hideCard, LINGER_MS);
}

function listenToGraph() {
  cy.on("render", drawOverlay);
  cy.on("mouseover", "node", (event) => {
    state.focused = boxOf(event.target);
    showCard(state.focused);
    redraw();
  });
  cy.on("mouseout", "node", hideCardSoon);
  cy.on("viewport", () => clearTimeout(leaving) || hideCard());
  cy.on("tap", "node", (event) => {
    const { shiftKey, ctrlKey, metaKey } = event.originalEvent;
    if (!shiftKey && !ctrlKey && !metaKey) pin(boxOf(event.target));
  });
  cy.on("select unselect", "node", () => soon.selection ??= requestAnimationFrame(() => {
    soon.selection = null;
    showSelection();
  }));
  find("card").addEventListener("mouseenter", () => clearTimeout(leaving));
  find("card").addEventListener("mouseleave", hideCardSoon);
  find("graph").addEventListener("keydown", onGraphKey);
  document.addEventListener("keydown", onAnyKey);
  new ResizeObserver(() => cy.resize()).observe(find("graph"));
}

function listenToControls() {
  find("fit").addEventListener("click", () => fit());
  find("zoom-in").addEventListener("click", () => zoomBy(1.25));
  find("zoom-out").addEventListener("click", () => zoomBy(0.8));
  find("unpin").addEventListener("click", () => pin(null));
  find("save").addEventListener("click", save);
  find("theme").addEventListener("click", () => dress(!isDark()));
  DARK.addEventListener("change", (event) => dress(event.matches));
  find("search").addEventListener("input", () => soon(() => {
    search(find("search").value);
    showFound();
    redraw();
  }));
  find("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && state.found.size) pin([...state.found][0]);
  });
  find("label").addEventListener("change", () => {
    edit(state.pinned, "label", find("label").value);
    showPinned();
    redraw();
  });
  find("make-group").addEventListener("click", group);
  find("group").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && selected().length) group();
  });
}

/* Put what is selected in the named group. */
function group() {
  for (const box of selected()) edit(box, "group", find("group").value);
  showGroups();
  showPinned();
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
  find("save").textContent = unsaved ? "Save circuit.json •" : "Save circuit.json";
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

for (const id of ["title", "settings", "share"]) find(id).textContent = PAGE[id];
listenToGraph();
listenToControls();
prepareSliders();
prepareFilters();
showSelection();
showGroups();
fit();
