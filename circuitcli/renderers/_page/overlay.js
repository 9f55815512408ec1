/* What lies over the graph: the insides of boxes as large as can be read, headings, and rings around boxes. */

const DETAIL = ASKED ? 0.6 : 0.32; // the zoom from which a box's text can be read
const PER_FRAME = 8; // pictures of boxes that one frame may draw anew
const NARROWEST = Math.min(...ORDER.map((box) => box.width));
const USUAL = ORDER.map((box) => box.height).sort((a, b) => a - b)[ORDER.length >> 1]; // height: names are of one size
const ONE_SITE = new Set(CIRCUIT.nodes.map((node) => node.site)).size === 1;
const LONGEST = Math.max(5, ...ORDER.map((box) => brief(box).length)); // name, characters
const READABLE = 8; // pixels of letters
const LINE = 1.4; // of a line's height over its letters'
const DIMMED = 0.3; // of what isn't lit
const SCALES = [0.5, 1, 2, 4];
const overlay = byId("overlay");
const pen = overlay.getContext("2d");

function drawOverlay() {
  const ratio = devicePixelRatio;
  const [width, height] = [cy.width(), cy.height()];
  if (overlay.width !== Math.round(width * ratio) || overlay.height !== Math.round(height * ratio)) {
    overlay.width = Math.round(width * ratio);
    overlay.height = Math.round(height * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.direction = "ltr";
  pen.textBaseline = "middle";
  const scale = SCALES.find((step) => step >= cy.zoom() * ratio) ?? SCALES.at(-1);
  let allowed = PER_FRAME;
  for (const box of ORDER) {
    const frame = onScreen(box);
    if (!box.shown || !isInside(frame, width, height)) continue;
    pen.globalAlpha = box.dim ? DIMMED : 1;
    if (!drawInside(box, frame, scale, allowed > 0)) allowed -= 1;
    pen.globalAlpha = 1;
    drawRings(box, frame);
  }
  drawAxis(width, height);
  drawHeadings(width, height);
  if (allowed < 0) requestAnimationFrame(drawOverlay); // the rest in the next frames
}

function isInside({ left, top, width, height }, across, down) {
  return left < across && top < down && left + width > 0 && top + height > 0;
}

/* The picture of a box, or its name where that is all that can be read. False if it had to be drawn anew. */
function drawInside(box, frame, scale, mayPaint) {
  if (cy.zoom() < DETAIL) {
    pen.strokeStyle = COLORS[box.node?.change ?? (box.node?.members ? "group" : "line")];
    pen.lineWidth = box.node?.pinned || box.node?.change ? 2 : box.node?.members ? 1.5 : 0.5;
    if (box.node?.kind === "error") pen.setLineDash([2, 2]);
    pen.strokeRect(frame.left, frame.top, frame.width, frame.height);
    pen.setLineDash([]);
    if (box.node?.attribution) drawCompact(box, frame);
    else drawName(box, frame);
    return true;
  }
  const known = picture(box, scale, false);
  const drawn = known ?? picture(box, scale, mayPaint);
  if (drawn) pen.drawImage(drawn, frame.left, frame.top, frame.width, frame.height);
  else if (box.node?.attribution) drawCompact(box, frame);
  else drawName(box, frame);
  return known !== null;
}

/* Its name, and where both can be read its label or the tokens that it fires on. */
function drawName(box, { left, top, width, height }) {
  const most = Math.min(15, (NARROWEST * cy.zoom()) / (0.62 * LONGEST));
  const ofTwo = Math.min(most, Math.min(height, USUAL * cy.zoom()) / (2 * LINE));
  const size = ofTwo < READABLE ? Math.min(most, height / 1.1) : ofTwo;
  if (size < 4) return;
  const lines = [[brief(box), { bold: true }]];
  if (ofTwo < READABLE) lines.length = 1;
  else if (box.node?.label) lines.push([cut(text(box.node.label), 30), { italic: true }]);
  else if (box.node) lines.push([firingTokens(box.node), { color: COLORS.facts }]);
  lines.forEach(([line, style], i) => {
    const y = top + height / 2 + (i - (lines.length - 1) / 2) * size * LINE;
    write(pen, line, left + width / 2, y, { size: i ? 0.95 * size : size, align: "center", room: width - 4, ...style });
  });
}

/* The name of a box from afar: `2:713` where all features are of one site. */
function brief(box) {
  const { id, node } = box;
  if (node?.attribution) return briefName(box);
  return node?.kind === "feature" && ONE_SITE ? `${node.layer}:${node.feature}` : cut(text(id), 40);
}

/* The tokens at which its top contexts are ablated, each once. */
function firingTokens(node) {
  const tokens = node.contexts.map((context) => runningText(context, context.firing).trim());
  return cut([...new Set(tokens)].map((token) => cut(token, TOKEN_LIMIT)).join("  "), 20);
}

/* Rings: chosen or at the keyboard, selected, found. A group's stripe. */
function drawRings(box, { left, top, width, height }) {
  const ring = (gap, line, dash, color) => {
    pen.strokeStyle = color;
    pen.lineWidth = line;
    pen.setLineDash(dash);
    pen.beginPath();
    pen.roundRect(left - gap, top - gap, width + 2 * gap, height + 2 * gap, 8 * Math.min(1, cy.zoom()) + gap);
    pen.stroke();
    pen.setLineDash([]);
  };
  if (box.node?.group && box.node.kind !== "group") {
    pen.fillStyle = COLORS.group;
    pen.fillRect(left - 1, top, Math.max(2, Math.min(6, 6 * cy.zoom() + 2)), height);
  }
  if (state.query && !state.found.has(box)) {
    pen.globalAlpha = 0.75;
    pen.fillStyle = COLORS.page;
    pen.fillRect(left - 2, top - 2, width + 4, height + 4);
    pen.globalAlpha = 1;
  } else if (state.query) ring(3, 3, [], COLORS.shade);
  if (box.element.selected()) ring(3, 2, [6, 4], COLORS.group);
  if (box === state.chosen) ring(4, 4, [], COLORS.focus);
  else if (box === state.focused) ring(4, 2, [], COLORS.focus);
}

/* Names of rows along the left edge, of columns along the upper one, wherever the view is. */
function drawHeadings(width, height) {
  const [zoom, pan] = [cy.zoom(), cy.pan()];
  const rows = arranged.rows ?? PAGE.rows;
  const near = ASKED ? Math.min(...rows.slice(1).map(([, y], i) => Math.abs(y - rows[i][1]) * zoom)) : Infinity;
  const bottom = height - axisHeight(zoom);
  for (const [name, y] of rows) drawHeading(name, 10, y * zoom + pan.y, bottom, "left", near);
  for (const [name, x] of arranged.rows ? [] : PAGE.columns) drawHeading(name, x * zoom + pan.x, 18, height, "center");
}

function drawHeading(name, x, y, height, align, near = Infinity) {
  if (y < 0 || y > height) return;
  const lines = name.split(" · ");
  const width = headingWidth(name);
  pen.globalAlpha = 0.85;
  pen.fillStyle = COLORS.page;
  const high = Math.min(18 * lines.length + 4, near);
  pen.fillRect(align === "left" ? x - 4 : x - width / 2 - 4, y - high / 2, width + 8, high);
  pen.globalAlpha = 1;
  lines.forEach((line, i) => {
    write(pen, line, x, y + 18 * (i - (lines.length - 1) / 2), { bold: true, color: COLORS.facts, align, size: Math.min(SIZE, near) });
  });
}

/* `layer 3` stands over `resid_post`: the wider of the two. */
function headingWidth(name) {
  font(pen, { bold: true });
  return Math.max(...name.split(" · ").map((line) => pen.measureText(line).width));
}
