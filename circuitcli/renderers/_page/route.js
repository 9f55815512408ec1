/* Ways of arrows around boxes. Boxes stand in bands, with free channels between: an arrow crosses a band by a gap between
   two boxes, and moves sideways in the widest of the channels that it comes through. */

const CLEAR = 6; // between an arrow and a box that isn't its end
const NARROW = 10; // gaps that no arrow fits through
const [LANE, SIDE] = [12, 30]; // between arrows beside all boxes, and between boxes and the first of them
const ASIDE = 0.3; // how much a gap on the side that an arrow comes from is preferred
const PORT = 14; // between arrows at one box, if there is room
const WIDE = ASKED ? 90 : Infinity; // gaps in which arrows go where it is best for them, not in the middle
const STUB = 20; // straight up to the head

/* The bands from top to bottom, each with its gaps from left to right; the outermost are open to one side. */
function bandsOf(boxes) {
  const bands = [];
  for (const box of [...boxes].sort((a, b) => a.y - a.height / 2 - (b.y - b.height / 2))) {
    const [top, bottom] = [box.y - box.height / 2, box.y + box.height / 2];
    const last = bands.at(-1);
    if (last && top < last.bottom) {
      last.bottom = Math.max(last.bottom, bottom);
      last.boxes.push(box);
    } else bands.push({ top, bottom, boxes: [box] });
  }
  const known = new Map(); // gaps above each other are one, so that arrows come straight through
  bands.forEach((band, i) => {
    band.gaps = gapsOf(band.boxes, columnsOf(boxes), known, i);
  });
  return bands;
}

/* The widest of the boxes that stand above each other, by their middle. */
function columnsOf(boxes) {
  const columns = new Map();
  for (const { x, width } of boxes) columns.set(Math.round(x), Math.max(width, columns.get(Math.round(x)) ?? 0));
  return columns;
}

function gapsOf(boxes, columns, known, band) {
  const gaps = [];
  const add = (left, right) => {
    const alone = right - left > WIDE && right < Infinity ? ` ${band}` : ""; // arrows come through these where they like
    const key = `${Math.round(left)} ${Math.round(right)}${alone}`;
    if (!known.has(key)) known.set(key, { left, right, places: new Map() });
    gaps.push(known.get(key));
  };
  let reached = -Infinity;
  for (const { x } of [...boxes].sort((a, b) => a.x - b.x)) {
    const half = columns.get(Math.round(x)) / 2;
    if (x - half - reached >= NARROW) add(reached, x - half);
    reached = Math.max(reached, x + half);
  }
  add(reached, Infinity);
  return gaps;
}

/* Where an arrow that would best be at x comes through a gap, before others are made room for. */
function within({ left, right }, x) {
  if (left === -Infinity) return Math.min(x, right - SIDE);
  if (right === Infinity) return Math.max(x, left + SIDE);
  if (right - left > WIDE) return Math.max(left + SIDE, Math.min(x, right - SIDE));
  return (left + right) / 2;
}

/* The way of each arrow among these boxes: points from its source's frame to its target's. */
function routes(edges, boxes) {
  const bands = bandsOf(boxes);
  const at = new Map(bands.flatMap((band, i) => band.boxes.map((box) => [box, i])));
  const ways = edges.map((each) => wayOf(each, bands, at));
  for (const gap of new Set(bands.flatMap((band) => band.gaps))) spread(gap);
  const ports = portsOf(ways);
  return ways.map((way) => points(way, bands, ports));
}

/* Which gaps an arrow takes. Up is towards lower numbers of bands; within one band it goes over it. */
function wayOf({ source, target }, bands, at) {
  const [from, to] = [at.get(source), at.get(target)];
  const up = to <= from;
  const step = up ? -1 : 1;
  const passed = [];
  for (let i = from + step; i !== to && to !== from; i += step) passed.push(i);
  const way = { source, target, up, from, to, passed };
  const channels = [from, ...passed].map((i) => channel(bands, up ? i - 1 : i));
  const wide = channels.indexOf(Math.max(...channels));
  way.gaps = passed.map((i, k) => {
    const [near, far] = k < wide ? [source.x, target.x] : [target.x, source.x];
    const cost = (gap) => Math.abs(within(gap, near) - near) + ASIDE * Math.abs(within(gap, near) - far);
    const gap = bands[i].gaps.reduce((a, b) => (cost(b) < cost(a) ? b : a));
    if (!gap.places.has(way)) gap.places.set(way, within(gap, near));
    return gap;
  });
  return way;
}

/* How high the channel below a band is. */
function channel(bands, i) {
  return i < 0 || i + 1 >= bands.length ? Infinity : bands[i + 1].top - bands[i].bottom;
}

/* Arrows of one gap side by side, in the order of where they go; beside all boxes each as near to its way as it can be. */
function spread({ left, right, places }) {
  const ways = [...places.keys()].sort((a, b) =>
    places.get(a) - places.get(b) || a.target.x - b.target.x || a.source.x - b.source.x);
  const apart = Math.min(LANE, (right - left) / (ways.length + 1));
  if (left === -Infinity) ways.reverse().reduce((last, way) => put(places, way, Math.min(places.get(way), last - apart)), Infinity);
  else if (right === Infinity) ways.reduce((last, way) => put(places, way, Math.max(places.get(way), last + apart)), -Infinity);
  else if (right - left > WIDE) {
    ways.reduce((last, way) => put(places, way, Math.max(places.get(way), last + apart)), -Infinity);
    ways.reduceRight((next, way) => put(places, way, Math.min(places.get(way), next - apart)), right);
  } else ways.forEach((way, i) => put(places, way, (left + right) / 2 + (i - (ways.length - 1) / 2) * apart));
}

function put(places, way, x) {
  places.set(way, x);
  return x;
}

/* Where arrows leave and reach a box: beside each other along its upper or lower edge, in the order of where they go. */
function portsOf(ways) {
  const sides = new Map();
  for (const way of ways) {
    const over = way.from === way.to;
    for (const [box, top, next] of [
      [way.source, way.up, way.gaps[0]?.places.get(way) ?? way.target.x],
      [way.target, over || !way.up, way.gaps.at(-1)?.places.get(way) ?? way.source.x],
    ]) {
      const key = `${box.index} ${top}`;
      if (!sides.has(key)) sides.set(key, { box, top, ends: [] });
      sides.get(key).ends.push({ way, end: box === way.source ? "source" : "target", next });
    }
  }
  const ports = new Map(ways.map((way) => [way, {}]));
  for (const { box, top, ends } of sides.values()) {
    ends.sort((a, b) => a.next - b.next);
    const apart = Math.min(PORT, (0.8 * box.width) / ends.length);
    ends.forEach(({ way, end }, i) => {
      ports.get(way)[end] = [box.x + (i - (ends.length - 1) / 2) * apart, box.y + ((top ? -1 : 1) * box.height) / 2];
    });
  }
  return ports;
}

function points(way, bands, ports) {
  const { source, target } = ports.get(way);
  const over = way.from === way.to;
  const side = way.up ? -1 : 1; // on the page, up is towards smaller numbers
  const leave = (band) => (way.up ? band.top - CLEAR : band.bottom + CLEAR);
  const enter = (band) => (way.up && !over ? band.bottom + CLEAR : band.top - CLEAR);
  const found = [source, [source[0], leave(bands[way.from])]];
  way.passed.forEach((i, k) => {
    const x = way.gaps[k].places.get(way);
    found.push([x, enter(bands[i])], [x, leave(bands[i])]);
  });
  const last = bands[way.to];
  const room = over ? STUB : channel(bands, way.up ? way.to : way.to - 1);
  const near = (over ? -1 : -side) * Math.max(CLEAR, Math.min(STUB, room / 3));
  found.push([target[0], (over || !way.up ? last.top : last.bottom) + near], target);
  return bent(found);
}

/* Without points on a straight line between their neighbours. */
function bent(line) {
  return line.filter(([x, y], i) => {
    if (i === 0 || i === line.length - 1) return true;
    const [[ax, ay], [bx, by]] = [line[i - 1], line[i + 1]];
    return Math.abs((x - ax) * (by - ay) - (y - ay) * (bx - ax)) > 1e-6 * (Math.hypot(bx - ax, by - ay) || 1);
  });
}

/* A way as Cytoscape takes it: its ends relative to their boxes' middles, and its bends relative to the line between. */
function wayData(line, source, target) {
  const [[ax, ay], [bx, by]] = [line[0], line.at(-1)];
  const [dx, dy] = [bx - ax, by - ay];
  const square = dx * dx + dy * dy || 1;
  const bends = line.slice(1, -1);
  return {
    from: `${ax - source.x} ${ay - source.y}`,
    to: `${bx - target.x} ${by - target.y}`,
    weights: bends.map(([x, y]) => ((x - ax) * dx + (y - ay) * dy) / square).join(" "),
    distances: bends.map(([x, y]) => ((y - ay) * dx - (x - ax) * dy) / Math.sqrt(square)).join(" "),
  };
}

/* Lead the arrows around the boxes as they stand; of more than LED, which nobody can follow, all are straight. */
function leadArrows() {
  const few = EDGES.length <= LED;
  const hidden = ASKED || arranged.rows; // boxes that aren't shown are led around no more, or aren't at these places
  const boxes = new Set(ORDER.filter((box) => box.shown || !hidden));
  const some = EDGES.filter(({ shown, dim, source, target }) =>
    source !== target && boxes.has(source) && boxes.has(target) && (few ? shown || !ASKED : shown && !dim));
  const led = some.length <= LED ? some : [];
  const lines = routes(led, boxes);
  const way = new Map(led.map((each, i) => [each, lines[i]]));
  cy.batch(() => {
    for (const each of EDGES) {
      const line = way.get(each);
      each.line = line ?? null;
      each.element.toggleClass("led", Boolean(line)).toggleClass("bent", Boolean(line) && line.length > 2);
      if (line) each.element.data(wayData(line, each.source, each.target));
    }
  });
}
