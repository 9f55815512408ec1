/* A box as the svg has it, drawn on canvas once for each scale and kept: text is drawn, never parsed. */

const FONT = "Helvetica, Arial, sans-serif";
const SIZE = 13;
const ROW = 22; // as in the svg
const EDGE = 7; // between a box's frame and its text
const LABEL_LINE = 48; // characters, as in the svg
const TOKEN_LIMIT = 20; // characters, as in the svg
const KEPT = 240; // pictures of boxes
const pictures = new Map(); // in the order of their last use

/* The picture of a box at a scale, or null where it would have to be drawn and `draw` is false. */
function picture(box, scale, draw) {
  const key = `${scale} ${box.index}`;
  let found = pictures.get(key);
  if (!found && !draw) return null;
  pictures.delete(key);
  found ??= painted(box, scale);
  pictures.set(key, found);
  if (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
  return found;
}

function forgetPictures() {
  pictures.clear();
}

function painted(box, scale) {
  const canvas = make("canvas", { width: Math.ceil(box.width * scale), height: Math.ceil(box.height * scale) });
  const pen = canvas.getContext("2d");
  pen.direction = "ltr";
  pen.textBaseline = "middle";
  pen.scale(scale, scale);
  let y = EDGE + 11;
  const inner = box.width - 2 * EDGE;
  pen.translate(EDGE, 0);
  if (box.node?.attribution) {
    paintCompact(pen, box, inner);
    return canvas;
  }
  write(pen, cut(text(box.id), 60), 0, y, { size: 20, bold: true, room: box.node ? inner * 0.72 : inner });
  if (!box.node) return canvas;
  const id = pen.measureText(cut(text(box.id), 60)).width;
  write(pen, facts(box.node), inner, y, { size: 12, color: COLORS.facts, room: Math.max(40, inner - id - 8), align: "right" });
  y += ROW + 2;
  if (box.node.writes?.length) {
    write(pen, placeOf(box.node), 0, y, { size: 12, color: COLORS.facts, room: inner });
    y += ROW;
  }
  for (const [value, style] of names(box.node)) {
    write(pen, value, 0, y, { ...style, room: inner });
    y += ROW;
  }
  y = paintContexts(pen, box.node, y, inner);
  y = paintTokens(pen, "promotes", box.node.promoted, "raises", y, inner);
  paintTokens(pen, "suppresses", box.node.suppressed, "lowers", y, inner);
  return canvas;
}

/* Label (in at most two lines) and group, and how they are written. */
function names(node) {
  const found = node.label ? wrapped(text(node.label)).map((line) => [line, { italic: true }]) : [];
  if (node.group) found.push([`group ${cut(text(node.group), LABEL_LINE)}`, { color: COLORS.group, bold: true }]);
  return found;
}

function wrapped(value) {
  const lines = [""];
  for (const word of value.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (longer.length <= LABEL_LINE || !lines.at(-1)) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  const shown = lines.map((line) => cut(line, LABEL_LINE)).slice(0, 2);
  if (lines.length > 2) shown[1] = `${shown[1]} …`;
  return shown;
}

/* Make a box as high as its rows: it has one more or less after an edit. Those of a prompt are all of one size. */
function fitRows(box) {
  if (ASKED) return;
  box.bare ??= box.height - ROW * names(box.node).length; // at first it is as the renderer made it
  const height = box.bare + ROW * names(box.node).length;
  if (height === box.height) return;
  box.height = height;
  box.element.data({ height });
}

function font(pen, { size = SIZE, bold = false, italic = false }) {
  pen.font = `${italic ? "italic " : ""}${bold ? "bold " : ""}${size}px ${FONT}`;
}

/* A run of text, squeezed into its room if it must be. */
function write(pen, value, x, y, { color = COLORS.ink, room, align = "left", ...style } = {}) {
  font(pen, style);
  pen.fillStyle = color;
  pen.textAlign = align;
  pen.fillText(value, x, y, room);
}

/* The contexts one below the other, their firing tokens at one place. */
function paintContexts(pen, node, y, room) {
  const lines = node.contexts.map((context) => pieces(pen, context, node.max_activation));
  const before = Math.max(0, ...lines.map((line) => line.before));
  const after = Math.max(0, ...lines.map((line) => line.after));
  pen.save();
  pen.scale(Math.min(1, room / (before + after || 1)), 1);
  for (const line of lines) {
    let x = before - line.before;
    for (const piece of line.pieces) {
      paintPiece(pen, piece, x, y);
      x += piece.width;
    }
    y += ROW;
  }
  pen.restore();
  return y;
}

function pieces(pen, context, largest) {
  const found = context.tokens.map((_, i) => {
    const value = cut(runningText(context, i), TOKEN_LIMIT + 1);
    const bold = i === context.firing;
    font(pen, { bold });
    const share = largest > 0 ? Math.min(1, context.activations[i] / largest) : 0;
    return { value, bold, share, width: pen.measureText(value).width };
  });
  const total = (list) => list.reduce((sum, piece) => sum + piece.width, 0);
  const { firing } = context;
  return { pieces: found, before: total(found.slice(0, firing)), after: total(found.slice(firing)) };
}

function paintPiece(pen, { value, bold, share, width }, x, y) {
  if (share > 0) {
    pen.globalAlpha = share;
    pen.fillStyle = COLORS.shade;
    pen.fillRect(x, y - ROW / 2 + 1, width, ROW - 2);
    pen.globalAlpha = 1;
  }
  write(pen, value, x, y, { bold, color: share > 0.5 ? COLORS["on-shade"] : COLORS.ink });
}

/* Tokens in tinted cells; what doesn't fit goes on in the next row. */
function paintTokens(pen, word, effects, color, y, room) {
  if (!effects.length) return y;
  const first = 70;
  write(pen, word, 0, y, { size: 12, color: COLORS[color] });
  let x = first;
  for (const effect of effects) {
    const value = cut(ALONE.get(effect.token), TOKEN_LIMIT);
    font(pen, {});
    const width = Math.min(room - first, pen.measureText(value).width + 6);
    if (x + width > room && x > first) {
      x = first;
      y += ROW;
    }
    pen.fillStyle = COLORS[`${color}-tint`];
    pen.fillRect(x, y - ROW / 2 + 1, width, ROW - 2);
    write(pen, value, x + 3, y, { color: COLORS[color], room: width - 4 });
    x += width + 2;
  }
  return y + ROW;
}
