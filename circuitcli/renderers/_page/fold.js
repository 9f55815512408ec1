/* What is drawn: the document's boxes and effects, or, with groups folded, one box in place of those of a group. */

let ORDER = []; // boxes
let EDGES = []; // effects between them, the largest first
let LARGEST = 0;
let FOLDED = Boolean(ASKED) && groups().length > 0;
const INSTEAD = new Map(); // boxes of folded groups, and the box that stands for them

/* The groups that can be folded, those of several nodes: name and boxes. */
function groups() {
  const members = new Map();
  for (const box of BOXES.values()) {
    const name = box.node?.group;
    if (name) members.set(name, [...(members.get(name) ?? []), box]);
  }
  return [...members].filter(([, boxes]) => boxes.length > 1);
}

/* Work out what is drawn. */
function arrange() {
  INSTEAD.clear();
  const folded = FOLDED ? groups().map(([name, boxes]) => groupBox(name, boxes)) : [];
  for (const box of folded) for (const member of box.node.members) INSTEAD.set(member, box);
  ORDER = [...BOXES.values()].filter((box) => !INSTEAD.has(box)).concat(folded);
  ORDER.forEach((box, index) => Object.assign(box, { index, shown: true, dim: false, causes: [], consequences: [] }));
  EDGES = summed().sort((a, b) => b.size - a.size);
  for (const each of EDGES) {
    Object.assign(each, { shown: true, dim: false, line: null, times: 1 });
    each.source.consequences.push(each);
    each.target.causes.push(each);
  }
  LARGEST = EDGES.length ? EDGES[0].size : 0;
}

/* One box for a group, in the place of the member that is nearest to the middle of all. */
function groupBox(name, members) {
  const middle = (axis) => members.reduce((sum, { home }) => sum + home[axis], 0) / members.length;
  const [x, y] = [middle("x"), middle("y")];
  const away = ({ home }) => Math.hypot(home.x - x, home.y - y);
  const { home, width, height } = members.reduce((a, b) => (away(b) < away(a) ? b : a));
  const id = /^group\b/i.test(name) ? text(name) : `group ${text(name)}`; // proposed ones are called so already
  return { id, ...home, home, width, height, node: groupNode(name, members) };
}

/* What a group does: its members' effects, added up. */
function groupNode(name, members) {
  const told = members.map((box) => box.node.attribution).filter(Boolean);
  const tokens = new Set(told.map(({ token }) => token));
  const attribution = {
    token: tokens.size === 1 ? [...tokens][0] : "",
    effect: told.reduce((sum, { effect }) => sum + (effect ?? 0), 0),
    method: methods(told),
    influence: Math.min(...told.map(({ influence }) => influence)),
  };
  const pinned = members.some((box) => box.node.pinned);
  const positions = new Set(members.map((box) => box.node.pos ?? null));
  const pos = positions.size === 1 ? [...positions][0] : null;
  return { kind: "group", group: name, label: null, members, pinned, pos, attribution, contexts: [], promoted: [], suppressed: [] };
}

/* Effects with groups in place of their members: those between the same two boxes add up, those inside a group go. */
function summed() {
  if (!INSTEAD.size) return [...EFFECTS];
  const found = [];
  const between = new Map();
  for (const each of EFFECTS) {
    const [source, target] = [standIn(each.source), standIn(each.target)];
    if (source === each.source && target === each.target) found.push(each);
    else if (source !== target) {
      const key = `${source.index} ${target.index}`;
      if (!between.has(key)) between.set(key, { source, target, edges: [] });
      between.get(key).edges.push(each.edge);
    }
  }
  for (const { source, target, edges } of between.values()) found.push(arrow(sumOf(source, target, edges), source, target));
  return found;
}

/* The box that is drawn for a box of the document. */
function standIn(box) {
  return INSTEAD.get(box) ?? box;
}

function sumOf(source, target, edges) {
  return {
    source: source.id,
    target: target.id,
    effect_mean: edges.reduce((sum, edge) => sum + edge.effect_mean, 0),
    ci_low: null,
    ci_high: null,
    n: Math.max(...edges.map((edge) => edge.n)),
    method: methods(edges),
    parts: edges.length,
    survival: CIRCUIT.metadata.repeats ? Math.max(...edges.map((edge) => edge.survival ?? 0)) : null,
  };
}

/* How numbers that were added up were got. */
function methods(told) {
  return [...new Set(told.map(({ method }) => method).filter(Boolean))].sort().join(" + ");
}

arrange();
