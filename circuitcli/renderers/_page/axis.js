/* The axis of a prompt: its tokens along the lower edge, each below its column, wherever the view is. */

const LEVEL = 40; // pixels of the axis while tokens aren't
const APART_FROM = 12; // pixels from token to token; what is nearer has a tick alone
const CROWDED = 0.2; // share of tokens wider than their columns from which all are written upright

/* Pixels of an upright token, at most. */
function tokenRoom() {
  return Math.min(96, cy.height() / 5);
}

/* How wide tokens are written, in pixels. */
function tokenWidths() {
  font(pen, { bold: true });
  return (tokenWidths.known ??= PAGE.axis.map(([token]) => pen.measureText(token).width));
}

/* Whether tokens are upright at a zoom, and how high the axis then is; nothing where there is none. */
function axisHeight(zoom) {
  if (!PAGE.axis.length) return 0;
  const wide = tokenWidths();
  const crowded = PAGE.axis.filter(([, , , across], i) => wide[i] > 1.2 * across * zoom).length;
  if (crowded <= CROWDED * PAGE.axis.length) return LEVEL;
  return Math.min(tokenRoom(), Math.max(...wide)) + 28;
}

/* From where to where the whole axis reaches, if it is all that is shown that is fitted. */
function alongAxis([low, high], boxes) {
  if (boxes.length < ORDER.length) return [low, high];
  return PAGE.axis.reduce(([a, b], [, , at, across]) => [Math.min(a, at - across / 2), Math.max(b, at + across / 2)], [low, high]);
}

function drawAxis(width, height) {
  const [zoom, pan] = [cy.zoom(), cy.pan().x];
  const high = axisHeight(zoom);
  if (!high) return;
  pen.globalAlpha = 0.92;
  pen.fillStyle = COLORS.page;
  pen.fillRect(0, height - high, width, high);
  pen.globalAlpha = 1;
  pen.fillStyle = COLORS.line;
  pen.fillRect(0, height - high, width, 1);
  let free = Infinity; // from the right, since the last token is what the target follows
  for (const [token, pos, at, across] of PAGE.axis.toReversed()) {
    const [x, room] = [at * zoom + pan, Math.max(APART_FROM, across * zoom)];
    if (x + room / 2 < 0 || x - room / 2 > width) continue;
    pen.fillStyle = COLORS.line;
    pen.fillRect(x, height - high, 1, 5);
    if (x + APART_FROM > free) continue;
    drawToken({ token, pos, x, room }, height, high);
    free = x;
  }
}

function drawToken({ token, pos, x, room }, height, high) {
  const active = state.focused?.node?.pos === pos || state.chosen?.node?.pos === pos;
  const style = { bold: true, color: active ? COLORS.focus : COLORS.ink };
  const y = high === LEVEL ? height - 9 : height - high + 12;
  write(pen, String(pos), x, y, { size: 10, color: COLORS.facts, align: "center", room: room - 2 });
  if (high === LEVEL) {
    write(pen, fitted(pen, token, style, room - 4), x, height - 25, { ...style, align: "center", room: room - 4 });
    return;
  }
  pen.save();
  pen.translate(x, height - high + 20);
  pen.rotate(-Math.PI / 2);
  const most = high - 24;
  write(pen, fitted(pen, token, style, most), 0, 0, { ...style, size: Math.min(SIZE, room), align: "right", room: most });
  pen.restore();
}
