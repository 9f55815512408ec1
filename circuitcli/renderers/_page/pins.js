/* What pages of prompts alone have: influence, pins that make a subgraph, folded groups, and what a choice lights up. */

/* The arrows that lie on a path to a target; all where there is none. */
function onPaths(arrows) {
  const reached = new Set(ORDER.filter((box) => box.node?.kind === "target"));
  if (!reached.size) return arrows;
  const given = new Set(arrows);
  for (const box of reached) for (const each of box.causes) if (given.has(each)) reached.add(each.source);
  return arrows.filter(({ target }) => reached.has(target));
}

/* What is chosen, what feeds it and what it feeds is lit, all else stands back. */
function light() {
  const { chosen } = state;
  const lit = new Set([chosen]);
  for (const each of EDGES) {
    const near = each.source === chosen || each.target === chosen;
    if (near && each.shown) lit.add(each.source).add(each.target);
    dim(each, Boolean(chosen) && !near);
  }
  for (const box of ORDER) dim(box, Boolean(chosen) && !lit.has(box));
}

function dim(thing, dimmed) {
  if (thing.dim === dimmed) return;
  thing.dim = dimmed;
  thing.element.toggleClass("dim", dimmed);
}

function isPinned(box) {
  return Boolean(box.node?.pinned);
}

/* Whether a box is in the subgraph of the pinned ones: it is one, or a token or target that touches one. */
function belongsToPinned(box) {
  if (isPinned(box)) return true;
  if (!ENDS.has(box.node?.kind)) return false;
  return box.causes.some(({ source }) => isPinned(source)) || box.consequences.some(({ target }) => isPinned(target));
}

/* Pin a box, or take its pin away; of a folded group all of its nodes. */
function togglePin(box) {
  if (!box?.node) return;
  const pinned = !box.node.pinned;
  for (const { node } of [box, ...(box.node.members ?? [])]) node.pinned = pinned;
  box.element.toggleClass("thick", pinned);
  markUnsaved(true);
  showPins();
  refresh();
  showChosen();
  say(`${text(box.id)} is ${pinned ? "pinned" : "no longer pinned"}`);
}

/* The button of the chosen box. */
function showPinOf({ node }) {
  byId("pin").textContent = node?.pinned ? "Unpin" : "Pin";
  byId("pin").disabled = !node;
}

function showPins() {
  const count = CIRCUIT.nodes.filter((node) => node.pinned).length;
  byId("pin-count").textContent = `pinned only (${count.toLocaleString("en")})`;
  byId("pinned-only").disabled = !count;
  if (!count) byId("pinned-only").checked = state.pinnedOnly = false;
}

/* Fold or unfold groups; what was chosen stays so, or the box that now stands for it. */
function fold(folded) {
  const whole = state.count >= EDGES.length;
  FOLDED = folded;
  const successor = (box) => box && (box.node?.members ? standIn(box.node.members[0]) : standIn(box));
  arrange();
  rebuild();
  forgetPictures();
  Object.assign(state, { chosen: successor(state.chosen), focused: successor(state.focused) });
  byId("count").max = EDGES.length;
  state.count = whole ? EDGES.length : Math.min(state.count, EDGES.length);
  byId("count").value = state.count;
  byId("fold").checked = FOLDED;
  byId("fold").disabled = !groups().length;
  search(state.query);
  hideCard();
  showSliders();
  showSelection();
}

/* Controls that other pages don't have; they, or those of other pages alone, are taken away. */
function prepareAsked() {
  for (const element of document.querySelectorAll(ASKED ? ".of-means" : ".of-prompts")) element.remove();
  if (!ASKED) return;
  byId("least-name").textContent = `Least |weight|, ${UNIT}`;
  const most = Math.max(...ORDER.map(({ node }) => node?.attribution?.influence ?? 0));
  Object.assign(byId("influence"), { min: 0, max: STEPS, step: 1, value: STEPS });
  byId("influence").addEventListener("input", () => {
    const step = Number(byId("influence").value);
    state.influence = step === STEPS ? Infinity : (most * step) / STEPS;
    soon(showSliders);
  });
  byId("pinned-only").addEventListener("change", () => {
    state.pinnedOnly = byId("pinned-only").checked;
    refresh();
    showChosen();
  });
  byId("fold").addEventListener("change", () => fold(byId("fold").checked));
  Object.assign(byId("fold"), { checked: FOLDED, disabled: !groups().length });
  byId("pin").addEventListener("click", () => togglePin(state.chosen));
  showPins();
}

function showInfluence() {
  const value = Number(byId("influence").value) === STEPS ? "all" : percent(state.influence);
  byId("influence-value").textContent = value;
  byId("influence").setAttribute("aria-valuetext", value);
}
