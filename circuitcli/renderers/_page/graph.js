/* The graph itself: Cytoscape.js draws boxes and arrows, zooms and pans, and finds what the pointer is on. */

const COMFORT = 0.75; // the zoom below which a chosen feature has its neighbours gathered around it
const LARGER = 1.25; // the zoom that fitting goes up to
const [GAP, FAR] = [26, 150]; // between gathered boxes, and between them and the one in their middle
const FLUID = 2000; // arrows that are drawn while the view moves; of more, only boxes are
const LED = ASKED ? 200 : FLUID; // arrows that are led around boxes; of a prompt they come from everywhere, and more are a tangle
const NAME = (index) => `box ${index}`; // its own names for nodes: no name of the model's is ever read as a selector

function elements() {
  const most = Math.max(...ORDER.map(({ node }) => Math.abs(node?.attribution?.effect ?? 0)));
  const nodes = ORDER.map(({ index, x, y, width, height, node }) => ({
    data: { id: NAME(index), width, height, ...(typeof node?.survival === "number" ? { survival: node.survival } : {}), tint: most ? Math.sqrt(Math.abs(node?.attribution?.effect ?? 0) / most) : 0 },
    position: { x, y },
    classes: classesOf(node),
  }));
  const arrows = EDGES.map(({ edge, size, source, target }, i) => ({
    data: { id: `arrow ${i}`, source: NAME(source.index), target: NAME(target.index), ...strength(edge, size, 1) },
    classes: CHANGES.size ? became(edge) : edge.effect_mean > 0 ? "raises" : "lowers",
    selectable: false,
  }));
  return [...nodes, ...arrows.reverse()]; // the largest on top
}

/* How the box of a node looks: changed or pinned, and of a prompt what it is and whether it promotes the target. */
function classesOf(node) {
  const classes = node?.change ? [node.change] : node?.pinned ? ["thick"] : [];
  if (node?.attribution) classes.push(`is-${node.kind}`, node.attribution.effect > 0 ? "raises" : "lowers");
  return classes.join(" ");
}

/* How strong an arrow is, by its effect relative to the largest, or by how often it survives, and how wide: `times` as
   wide as in the svg. */
function strength(edge, size, times) {
  const share = CIRCUIT.metadata.repeats ? (edge.survival ?? 0) : LARGEST ? size / LARGEST : 0;
  return { strength: share, line: times * (1.5 + 5.5 * share) };
}

/* Line and opacity grow with |effect|, or with survival, as in the svg. */
function looks() {
  return [
    {
      selector: "node",
      style: {
        shape: "round-rectangle",
        "corner-radius": 8,
        width: "data(width)",
        height: "data(height)",
        "background-color": COLORS.paper,
        "border-width": 1,
        "border-color": COLORS.line,
        "overlay-opacity": 0,
      },
    },
    ...["raises", "lowers"].map((name) => ({
      selector: `node.${name}`,
      style: { "background-color": `mapData(tint, 0, 1, ${COLORS.paper}, ${COLORS[`${name}-tint`]})` },
    })),
    { selector: "node[survival]", style: { "border-color": `mapData(survival, 0, 1, ${COLORS.line}, ${COLORS.ink})` } },
    { selector: "node.is-error", style: { "border-style": "dotted", "border-width": 2 } },
    { selector: "node.is-group", style: { "border-width": 3, "border-color": COLORS.group } },
    { selector: "node.thick", style: { "border-width": 4, "border-color": COLORS.ink } },
    {
      selector: "edge",
      style: {
        "curve-style": "straight",
        "target-arrow-shape": "triangle",
        "arrow-scale": 1.2,
        width: "data(line)",
        opacity: "mapData(strength, 0, 1, 0.3, 1)",
        events: "no",
        "overlay-opacity": 0,
      },
    },
    { selector: "edge.led", style: { "source-endpoint": "data(from)", "target-endpoint": "data(to)" } },
    {
      selector: "edge.bent",
      style: {
        "curve-style": "round-segments",
        "edge-distances": "endpoints",
        "segment-weights": "data(weights)",
        "segment-distances": "data(distances)",
        "segment-radii": 24,
      },
    },
    ...["raises", "lowers", ...CHANGES.keys()].map((name) => ({
      selector: `edge.${name}`,
      style: { "line-color": COLORS[name], "target-arrow-color": COLORS[name] },
    })),
    ...[...CHANGES.keys()].map((name) => ({
      selector: `node.${name}`,
      style: { "border-width": 4, "border-color": COLORS[name] },
    })),
    { selector: "edge.lost", style: { "line-style": "dashed", "line-dash-pattern": [24, 14] } },
    { selector: "node.dim", style: { opacity: 0.25 } },
    { selector: "edge.dim", style: { opacity: 0.05 } },
    { selector: ".off", style: { display: "none" } },
  ];
}

cytoscape.warnings(false);
const cy = cytoscape({
  container: byId("graph"),
  elements: elements(),
  style: looks(),
  layout: { name: "preset" },
  minZoom: 0.005,
  maxZoom: 3,
  autoungrabify: true,
  hideEdgesOnViewport: EDGES.length > FLUID,
});
adopt();

/* Every box and arrow knows its element of the graph. */
function adopt() {
  for (const box of ORDER) box.element = cy.getElementById(NAME(box.index));
  EDGES.forEach((each, i) => Object.assign(each, { element: cy.getElementById(`arrow ${i}`) }));
}

/* The box that an element of the graph stands for. */
function boxOf(element) {
  return ORDER[Number(element.id().split(" ")[1])];
}

/* From far away lines get wider, in steps of two, where there are few enough to be told apart. */
function thicken() {
  const times = Math.max(1, 2 ** Math.floor(Math.log2(0.7 / cy.zoom())));
  const shown = EDGES.filter((each) => each.shown);
  const wanted = shown.length > FLUID ? 1 : Math.min(shown.length > LED ? 4 : 16, times);
  cy.batch(() => {
    for (const each of shown.filter((arrow) => (arrow.times ?? 1) !== wanted)) {
      each.times = wanted;
      each.element.data(strength(each.edge, each.size, wanted));
    }
  });
}

/* Bring boxes, and the arrows between them, into view, beside the rows' names and below the columns', and not much larger than life. */
function fit(boxes = ORDER.filter((box) => box.shown)) {
  if (!boxes.length) return;
  const lead = Math.max(0, ...(arranged.rows ?? PAGE.rows).map(([name]) => headingWidth(name)));
  const margin = { left: lead + 26, right: 20, top: PAGE.columns.length ? 44 : 20, bottom: 20 };
  const room = { width: cy.width() - margin.left - margin.right, height: cy.height() - margin.top - margin.bottom };
  const [left, right] = alongAxis(reach(extent(boxes, "x", "width"), boxes), boxes);
  const [top, bottom] = extent(boxes, "y", "height");
  const zoomIn = (high) => Math.max(cy.minZoom(), Math.min(LARGER, room.width / (right - left), high / (bottom - top)));
  room.height -= axisHeight(zoomIn(room.height)); // the smaller boxes are, the higher it is
  const zoom = zoomIn(room.height);
  const x = margin.left + room.width / 2 - (zoom * (left + right)) / 2;
  const y = margin.top + room.height / 2 - (zoom * (top + bottom)) / 2;
  cy.viewport({ zoom, pan: { x, y } });
}

/* From where to where boxes reach along an axis. */
function extent(boxes, axis, size) {
  return boxes.reduce(
    ([low, high], box) => [Math.min(low, box[axis] - box[size] / 2), Math.max(high, box[axis] + box[size] / 2)],
    [Infinity, -Infinity],
  );
}

/* The same with the ways of the arrows between all that is shown, if it is all that is fitted. */
function reach([low, high], boxes) {
  if (boxes.some((box) => !box.shown)) return [low, high];
  const inside = new Set(boxes);
  const led = EDGES.filter((each) => each.shown && each.line && inside.has(each.source) && inside.has(each.target));
  return led.reduce(([a, b], { line }) => [Math.min(a, ...line.map(([x]) => x)), Math.max(b, ...line.map(([x]) => x))], [low, high]);
}

/* Draw anew what is drawn, after groups were folded or unfolded. */
function rebuild() {
  cy.batch(() => {
    cy.elements().remove();
    cy.add(elements());
  });
  adopt();
}

function zoomBy(factor) {
  cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
}

const arranged = { rows: null }; // names of rows and where they are, while boxes aren't at their own places

/* Gather a box's shown neighbours around it in two grids (Cytoscape's): consequences above it, causes below. */
function gather(box) {
  const rows = [[text(box.id), box.y]];
  for (const [name, list, end, side] of [["consequences", box.consequences, "target", -1], ["causes", box.causes, "source", 1]]) {
    const near = [...new Set(list.filter((each) => each.shown).map((each) => each[end]))].filter((other) => other !== box);
    if (!near.length) continue;
    const width = Math.max(...near.map((other) => other.width)) + GAP;
    const height = Math.max(...near.map((other) => other.height)) + GAP;
    const columns = Math.min(near.length, Math.ceil(Math.sqrt(near.length * 2)));
    const down = Math.ceil(near.length / columns) * height;
    const middle = box.y + side * (box.height / 2 + FAR + down / 2);
    const frame = { x1: box.x - (columns * width) / 2, y1: middle - down / 2, w: columns * width, h: down };
    const found = cy.collection(near.map((other) => other.element));
    found.layout({ name: "grid", boundingBox: frame, cols: columns, fit: false, avoidOverlap: false }).run();
    rows.push([name, middle]);
  }
  arranged.rows = rows;
  takePlaces();
  leadArrows();
}

/* All boxes back at their own places. */
function scatter() {
  if (!arranged.rows) return;
  arranged.rows = null;
  cy.batch(() => {
    for (const { element, home } of ORDER) element.position(home);
  });
  takePlaces();
  leadArrows();
}

/* Read from the graph where boxes are. */
function takePlaces() {
  for (const box of ORDER) Object.assign(box, box.element.position());
}

/* A box's frame in pixels of the stage. */
function onScreen(box) {
  const [zoom, pan] = [cy.zoom(), cy.pan()];
  const [width, height] = [box.width * zoom, box.height * zoom];
  return { left: box.x * zoom + pan.x - width / 2, top: box.y * zoom + pan.y - height / 2, width, height };
}
