/* A box of a circuit of a prompt: three lines, its name, where and how active it is, and its effect. */

const ROW_FROM_AFAR = 12; // pixels
const TIGHT = 1.2; // of a line's height over its letters', from afar

function paintCompact(pen, box, room) {
  const { node } = box;
  const { kind } = node;
  const end = ENDS.has(kind);
  const name = { size: end ? 16 : 14, bold: !node.label || end, italic: Boolean(node.label) && !end };
  const value = fitted(pen, shortName(box), name, room);
  write(pen, value, 0, 15, { ...name, room, color: kind === "group" ? COLORS.group : COLORS.ink });
  write(pen, fitted(pen, underName(node), { size: 12 }, room), 0, 33, { size: 12, color: COLORS.facts, room });
  paintEffect(pen, node, 51, room);
}

/* Its token and activation; of a token its position, of a group how many it stands for. */
function underName(node) {
  const { kind, attribution } = node;
  if (kind === "target") return "target";
  if (kind === "group") return `${node.members.length} nodes${tokenOf(node) ? ` · ${tokenOf(node)}` : ""}`;
  if (kind === "token") return (node.pos ?? null) === null ? "token" : `token ${node.pos}`;
  const active = `${kind === "error" ? "norm" : "act"} ${number(attribution.activation)}`;
  return tokenOf(node) ? `${cut(tokenOf(node), 14)} · ${active}` : active;
}

function paintEffect(pen, node, y, room) {
  const estimate = isEstimate(node.attribution);
  write(pen, effectInUnits(node), 0, y, { bold: true, color: colorOf(node), room: estimate ? room * 0.6 : room });
  if (!estimate) return;
  write(pen, `≈ ${node.attribution.method}`, room, y, { size: 12, color: COLORS.facts, align: "right", room: room * 0.38 });
}

/* A box from afar: its name, and below it its effect where there is room, in letters as large as can be. */
function drawCompact(box, { left, top, width, height }) {
  const lines = [[briefName(box), { bold: true }]];
  if (height >= 2 * ROW_FROM_AFAR) lines.push([amountOf(box.node), { color: colorOf(box.node) }]);
  const size = Math.min(SIZE, height / (lines.length * TIGHT + 0.2));
  if (size < 5) return;
  lines.forEach(([line, look], i) => {
    font(pen, { ...look, size });
    const style = { ...look, size: size * Math.max(0.6, Math.min(1, (width - 4) / pen.measureText(line).width)) };
    const y = top + height / 2 + (i - (lines.length - 1) / 2) * size * TIGHT;
    const value = fitted(pen, line, style, width - 4);
    if (value !== "…") write(pen, value, left + width / 2, y, { ...style, align: "center", room: width - 4 });
  });
}

/* As much of a text as fits a width when it is squeezed a little. */
function fitted(pen, value, style, room) {
  font(pen, style);
  if (pen.measureText(value).width <= 1.15 * room) return value;
  let most = Math.min(value.length, 80);
  while (most > 1 && pen.measureText(cut(value, most)).width > 1.1 * room) most -= 1;
  return cut(value, most);
}
