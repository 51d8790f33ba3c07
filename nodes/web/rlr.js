// What the nodes show in the browser. A run's folder is asked, so that a reload loses nothing.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { made } from "./elements.js";
import { CURVES, panel, PREVIEW } from "./panel.js";
import { weights } from "./weights.js";

const RUN = "rlr_run"; // a node's property: the run that it trained last
const LOOK = 5000; // milliseconds: a page that did not queue the graph hears nothing of a run, and looks at it
const WIDTH = 360; // of a new node, in pixels: what is told on it can be read

/** The node that the server calls `id`: "7", or "12:7" within a subgraph. */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  let node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node;
}

/** Whether a message is of the workflow that is shown: nodes of others have the same numbers. */
function isOurs(workflow) {
  const shown = (app.rootGraph ?? app.graph)?.id;
  return !workflow || !shown || workflow === shown;
}

/** Give a node room for what is shown on it, which is no part of the workflow. */
function show(node, element, height) {
  keep(element, height);
  const getMinHeight = () => Number.parseInt(element.style.minHeight, 10);
  const widget = node.addDOMWidget("rlr", "rlr", element, { serialize: false, getMinHeight });
  widget.serialize = false;
}

/** Keep so many pixels free: Nodes 2.0 asks the element, and no function. */
function keep(element, height) {
  element.style.minHeight = `${height}px`;
}

async function ask(path, options) {
  const answer = await api.fetchApi(path, options);
  return answer.ok ? await answer.json() : null;
}

function attachPanel(node) {
  const shown = panel((run, file) => api.apiURL(picture(run, file)), () => hasPreview(node));
  show(node, shown.element, CURVES + PREVIEW);
  node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
  let busy = false;
  let again = false;
  let looking;
  node.rlrRefresh = async (facts) => {
    if (facts?.run) remember(node, facts.run);
    shown.note(facts);
    again = true;
    if (busy) return;
    busy = true;
    while (again) {
      again = false;
      const run = node.properties?.[RUN];
      const now = await ask(run ? `/rlr/runs/${encodeURIComponent(run)}` : `/rlr/nodes/${node.id}`);
      if (isOurs(now?.workflow)) shown.draw(now ?? { missing: run });
      clearTimeout(looking);
      if (now?.state === "running" && node.graph) looking = setTimeout(node.rlrRefresh, LOOK);
      keep(shown.element, hasPreview(node) ? CURVES : CURVES + PREVIEW);
      await new Promise((done) => setTimeout(done, 1000)); // at most one question a second
    }
    busy = false;
  };
}

/** Whether ComfyUI shows a preview on a node: the classic renderer, or Nodes 2.0, which calls a node within a subgraph "graph:7". */
function hasPreview(node) {
  const known = app.nodePreviewImages ?? {};
  return [node.imgs, known[node.id], known[`${node.graph?.id}:${node.id}`]].some((pictures) => pictures?.length);
}

/** What came of a node that saves or scores, in words. */
function attachWords(node, before) {
  const told = made("div", "rlr-panel rlr-words");
  show(node, told, 40);
  const executed = node.onExecuted;
  node.onExecuted = function (output) {
    executed?.apply(this, arguments);
    if (output?.text) told.textContent = before + [output.text].flat().join("\n");
  };
}

/** Keep the run with the workflow, also in the draft that a reload brings back. */
function remember(node, run) {
  if (node.properties[RUN] === run) return;
  node.properties[RUN] = run;
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
}

function picture(run, file) {
  const [folder, name] = file.split("/");
  return `/view?type=output&subfolder=${encodeURIComponent(`rlr/${run}/${folder}`)}&filename=${encodeURIComponent(name)}`;
}

app.registerExtension({
  name: "RLR",
  setup() {
    api.addEventListener("rlr.run", ({ detail }) => isOurs(detail.workflow) && nodeOf(detail.node)?.rlrRefresh?.(detail));
    api.addEventListener("execution_error", ({ detail }) => {
      if (detail.node_type === "RLRTrain") nodeOf(detail.node_id)?.rlrRefresh?.({ note: detail.exception_message });
    });
    api.addEventListener("executed", ({ detail }) => {
      const run = detail.output?.rlr_run?.[0];
      if (run && isOurs(detail.output.rlr_workflow?.[0])) nodeOf(detail.node)?.rlrRefresh?.({ run, state: "finished" });
    });
  },
  nodeCreated(node) {
    if (node.comfyClass === "RLRTrain") attachPanel(node);
    if (node.comfyClass in TELLING) attachWords(node, TELLING[node.comfyClass]);
    const reward = REWARDS[node.comfyClass];
    if (reward) show(node, weights(reward, ask), 56);
  },
  loadedGraphNode(node) {
    node.rlrRefresh?.();
  },
});

const TELLING = { RLRSaveLora: "Saved in models/loras: ", RLRScore: "" };
const REWARDS = {
  RLRRewardPickscore: "pickscore",
  RLRRewardImagereward: "imagereward",
  RLRRewardHpsv2: "hpsv2",
  RLRRewardHpsv21: "hpsv2.1",
  RLRRewardAesthetic: "aesthetic",
  RLRRewardClipscore: "clipscore",
};
