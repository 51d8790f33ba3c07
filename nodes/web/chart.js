// Curves of (iteration, value, half width of the 95% band) as SVG, each in a frame of its own: a mix of rewards, its parts and
// a held-out score are on scales of their own.

const WIDTH = 380;
const HEIGHT = 104;
const LEFT = 44;
const RIGHT = 50;
const TOP = 22;
const BOTTOM = 16;
// Mixed with that of text, they can be read on light palettes, too; the last one is that of all curves beyond.
const COLOURS = ["#8ab4f8", "#f2b872", "#8fcf9f"].map((colour) => `color-mix(in srgb, ${colour} 60%, currentColor)`);
const STACKED = 2; // curves that lie one above the other; more are in two columns

/** A value in four digits, large ones whole. */
export const told = (value) => (Math.abs(value) >= 1e4 && Math.abs(value) < 1e8 ? value.toFixed(0) : String(Number(value.toPrecision(4))));

function svg(kind, facts, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(facts)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** Charts of name → points over `iterations`; curves without points are left out. `columns` says how many lie side by side. */
export function charts(curves, iterations) {
  const known = Object.entries(curves).filter(([, points]) => points.length);
  const columns = known.length > STACKED ? 2 : 1;
  const end = Math.max(1, iterations, ...known.map(([, points]) => points.at(-1)[0]));
  const drawn = known.map(([name, points], number) => chart(name, points, end, WIDTH / columns, COLOURS[Math.min(number, COLOURS.length - 1)]));
  return { columns, drawn };
}

function chart(name, points, end, width, colour) {
  const label = `${name}: ${told(points.at(-1)[1])}`;
  const sheet = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  const low = Math.min(...points.map(([, y, band]) => y - band));
  const high = Math.max(...points.map(([, y, band]) => y + band));
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.5;
  const at = (x, y) => [
    LEFT + ((width - LEFT - RIGHT) * x) / end,
    HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (y - low + room)) / (high - low + 2 * room),
  ];
  sheet.append(svg("title", {}, label));
  axes(sheet, at, low, high, end);
  curve(sheet, at, points, colour);
  sheet.append(svg("text", { x: 4, y: 11, fill: colour, "font-size": 11 }, name));
  return sheet;
}

function axes(sheet, at, low, high, end) {
  const words = { fill: "currentColor", "font-size": 10, opacity: 0.7 };
  for (const value of low < high ? [low, high] : [low]) {
    const [x, y] = at(0, value);
    sheet.append(svg("line", { x1: x, x2: at(end, value)[0], y1: y, y2: y, stroke: "currentColor", opacity: 0.2 }));
    sheet.append(svg("text", { ...words, x: x - 4, y: y + 3, "text-anchor": "end" }, told(value)));
  }
  sheet.append(svg("text", { ...words, x: LEFT, y: HEIGHT - 3 }, "0"));
  sheet.append(svg("text", { ...words, x: at(end, low)[0], y: HEIGHT - 3, "text-anchor": "end" }, `iteration ${end}`));
}

function curve(sheet, at, points, colour) {
  const up = points.map(([x, y, band]) => at(x, y + band).join());
  const down = points.map(([x, y, band]) => at(x, y - band).join()).reverse();
  sheet.append(svg("polygon", { points: [...up, ...down].join(" "), fill: colour, opacity: 0.2 }));
  sheet.append(svg("polyline", { points: points.map(([x, y]) => at(x, y).join()).join(" "), fill: "none", stroke: colour, "stroke-width": 2 }));
  const [x, y] = at(...points.at(-1).slice(0, 2));
  sheet.append(svg("circle", { cx: x, cy: y, r: 3, fill: colour }));
  sheet.append(svg("text", { x: x + 6, y: y + 3, fill: colour, "font-size": 10 }, told(points.at(-1)[1])));
}
