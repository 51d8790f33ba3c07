// A training on its node: what it does, how long it takes, its curves, the newest preview.

import { charts } from "./chart.js";
import { made, style } from "./elements.js";

/** Pixels of what is told with the curves, and of a preview below them. They are kept free from the start: a node that grew
 * while it trains would cover those below it. */
export const CURVES = 260;
export const PREVIEW = 110;

style(`
.rlr-panel { display: flex; flex-direction: column; gap: 4px; font: 12px/1.4 sans-serif; color: var(--input-text, #ddd); overflow: hidden; }
.rlr-panel.rlr-words { white-space: pre-wrap; overflow: auto; }
.rlr-panel progress { width: 100%; height: 6px; accent-color: #8ab4f8; }
.rlr-panel img { flex: none; max-width: 100%; height: ${PREVIEW}px; object-fit: contain; border-radius: 4px; }
.rlr-panel .rlr-curves { display: grid; grid-auto-rows: minmax(0, 1fr); flex: 1 1 200px; min-height: 0; }
.rlr-panel svg { width: 100%; height: 100%; display: block; }
.rlr-panel .rlr-note { color: color-mix(in srgb, #f2b872 60%, currentColor); white-space: pre-wrap; max-height: 48px; overflow: auto; }
`);

/** Seconds as people say them. */
export function duration(seconds) {
  if (seconds >= 5400) return `${(seconds / 3600).toFixed(1)} h`;
  if (seconds >= 90) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds)} s`;
}

/** The panel: its element, and what draws a snapshot of the run on it.
 *
 * `address` says where a preview lies, `shown` whether ComfyUI itself shows one on the node. */
export function panel(address, shown) {
  const element = made("div", "rlr-panel");
  const told = made("div", "rlr-told");
  const bar = made("progress");
  const curves = made("div", "rlr-curves");
  const preview = made("img");
  const note = made("div", "rlr-note");
  preview.hidden = bar.hidden = true;
  preview.alt = "The newest preview";
  told.textContent = "Curve, previews and the time left are shown here while it trains.";
  element.append(told, bar, note, curves, preview);
  let doing = "";
  let state = ""; // as it was told last, "" where nothing was
  const missing = (run) => {
    if (state === "running") return; // its folder is yet to be written
    bar.hidden = true;
    told.textContent = state ? `${run}: ${state}` : `${run} is not in output/rlr: it was renamed, deleted, or is of another computer.`;
  };
  return {
    element,
    note(facts) {
      if (facts?.doing !== undefined) doing = facts.doing;
      if (facts?.state === "running" && state !== "running") note.textContent = ""; // that of the run before
      if (facts?.state) state = facts.state;
      if (facts?.note) note.textContent = facts.note;
      if (facts?.doing) told.textContent = facts.doing;
    },
    draw(run) {
      if (run.missing) missing(run.missing);
      if (!run.state) return;
      told.textContent = words(run, doing);
      bar.hidden = run.state !== "running";
      bar.max = run.iterations || 1;
      bar.value = run.iteration;
      if (run.message && !note.textContent.includes(run.message)) note.textContent = run.message;
      const { columns, drawn } = charts(run.curves, run.iterations);
      curves.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
      curves.replaceChildren(...drawn);
      preview.hidden = !run.preview || shown();
      if (run.preview) preview.src = address(run.run, run.preview);
    },
  };
}

function words(run, doing) {
  const said = [`${run.run}: ${run.state}`, `iteration ${run.iteration} of ${run.iterations}`];
  if (run.state === "running" && run.seconds_left !== null) said.push(`about ${duration(run.seconds_left)} left`);
  if (run.state === "running" && doing) said.push(doing);
  if (run.state === "stopped") said.push(run.lora ? `what was learned is in ${run.lora}` : "nothing was learned yet");
  if (run.result) said.push(`held-out ${run.result}`);
  return said.join(" · ");
}
