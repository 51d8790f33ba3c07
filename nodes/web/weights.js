// Whether a published reward's weights are there; they are downloaded when the button is pressed, and never otherwise.

import { made, style } from "./elements.js";

style(`
.rlr-weights { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; font: 12px/1.4 sans-serif; color: var(--input-text, #ddd); }
.rlr-weights button { padding: 2px 8px; border-radius: 4px; border: 1px solid #8ab4f8; background: none; color: inherit; cursor: pointer; }
.rlr-weights progress { flex: 1 1 100%; height: 6px; accent-color: #8ab4f8; }
`);

const GB = 1e9;

/** What is shown on the node of the reward `name`; `ask` is asked for the server's answers. */
export function weights(name, ask) {
  const element = made("div", "rlr-weights");
  const told = made("span");
  const button = made("button");
  const bar = made("progress");
  const path = `/rlr/rewards/${name}`;
  button.hidden = bar.hidden = true;
  button.type = "button";
  element.append(told, button, bar);
  const draw = (now) => {
    if (!now) return;
    const size = `${(now.total / GB).toFixed(2)} GB`;
    told.textContent = now.message || (now.state === "installed" ? "Weights are installed." : `${size} · ${now.licences.join(", ")}`);
    told.title = now.folder;
    button.textContent = `Download weights (${size})`;
    button.hidden = now.state !== "missing";
    bar.hidden = now.state !== "fetching";
    bar.value = now.done / now.total;
    if (now.state === "fetching") setTimeout(async () => draw(await ask(path)), 1000);
  };
  button.addEventListener("click", async () => draw(await ask(path, { method: "POST" })));
  ask(path).then(draw);
  return element;
}
