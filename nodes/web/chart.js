// Curves of (iteration, value, half width of the 95% band) as SVG.

const WIDTH = 400;
const HEIGHT = 190;
const LEFT = 40;
const RIGHT = 52;
const TOP = 20;
const BOTTOM = 16;
const COLOURS = ["#8ab4f8", "#f2b872"];

/** A value in four digits. */
const told = (value) => String(Number(value.toPrecision(4)));

function svg(kind, facts, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(facts)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** Name → points; curves without points are left out, and without any there is nothing. */
export function chart(curves) {
  const known = Object.entries(curves).filter(([, points]) => points.length);
  const sheet = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  if (!known.length) return document.createDocumentFragment();
  const all = known.flatMap(([, points]) => points);
  const low = Math.min(...all.map(([, y, band]) => y - band));
  const high = Math.max(...all.map(([, y, band]) => y + band));
  const room = (high - low) * 0.06 || 0.5;
  const end = Math.max(1, ...all.map(([x]) => x));
  const at = (x, y) => [
    LEFT + ((WIDTH - LEFT - RIGHT) * x) / end,
    HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (y - low + room)) / (high - low + 2 * room),
  ];
  axes(sheet, at, low, high, end);
  known.forEach(([name, points], number) => curve(sheet, at, name, points, COLOURS[number], number));
  sheet.setAttribute("aria-label", known.map(([name, points]) => `${name} ${told(points.at(-1)[1])}`).join(", "));
  return sheet;
}

function axes(sheet, at, low, high, end) {
  const words = { fill: "currentColor", "font-size": 10, opacity: 0.7 };
  for (const value of [low, high]) {
    const [x, y] = at(0, value);
    sheet.append(svg("line", { x1: x, x2: at(end, value)[0], y1: y, y2: y, stroke: "currentColor", opacity: 0.2 }));
    sheet.append(svg("text", { ...words, x: x - 4, y: y + 3, "text-anchor": "end" }, told(value)));
  }
  sheet.append(svg("text", { ...words, x: LEFT, y: HEIGHT - 3 }, "0"));
  sheet.append(svg("text", { ...words, x: WIDTH - RIGHT, y: HEIGHT - 3, "text-anchor": "end" }, `iteration ${end}`));
}

function curve(sheet, at, name, points, colour, number) {
  const up = points.map(([x, y, band]) => at(x, y + band).join());
  const down = points.map(([x, y, band]) => at(x, y - band).join()).reverse();
  sheet.append(svg("polygon", { points: [...up, ...down].join(" "), fill: colour, opacity: 0.2 }));
  sheet.append(svg("polyline", { points: points.map(([x, y]) => at(x, y).join()).join(" "), fill: "none", stroke: colour, "stroke-width": 2 }));
  const [x, y] = at(...points.at(-1).slice(0, 2));
  sheet.append(svg("circle", { cx: x, cy: y, r: 3, fill: colour }));
  sheet.append(svg("text", { x: x + 6, y: y + 3, fill: colour, "font-size": 10 }, told(points.at(-1)[1])));
  sheet.append(svg("text", { x: LEFT + number * 130, y: 11, fill: colour, "font-size": 11 }, name));
}
