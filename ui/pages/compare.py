"""The page Compare: what is compared, and the pictures. `look/compare.js` moves it, `painting` fills it."""

from __future__ import annotations

import gradio as gr

from ui.workspace import Workspace

PICKER = """<div class="field pick" data-pick="{name}" data-from="{source}"><label for="{name}">{label}</label>
<input id="{name}" type="text" role="combobox" aria-expanded="false" aria-autocomplete="list" aria-controls="{name}-list"
autocomplete="off" spellcheck="false" placeholder="{hint}">
<ul id="{name}-list" role="listbox" aria-label="{label}" hidden></ul></div>"""


def _picker(name: str, label: str, source: str, hint: str) -> str:
    return PICKER.format(name=f"compare-{name}", label=label, source=source, hint=hint)


SEARCH = "Search runs and LoRAs"
FIRST = _picker("first", "First", "rlr/compare/choices", SEARCH)
SECOND = _picker("second", "Second", "rlr/compare/choices?base=false", SEARCH)
PAINTED_BY = _picker(
    "checkpoint", "Painted by", "rlr/compare/checkpoints", "The one that the LoRA was made for"
)
HTML = f"""<div class="rlr form-page compare" id="compare"><header><h1>Compare</h1>
<p class="soft">The same prompts and seeds, so that only the LoRA makes the difference.</p></header>
<div class="bench"><form class="panel" autocomplete="off" novalidate>
<fieldset class="modes"><legend class="hidden">What to paint</legend>
<label><input type="radio" name="mode" value="sides" checked><span>Side by side</span></label>
<label><input type="radio" name="mode" value="sweep"><span>Strengths</span></label></fieldset>
<div class="with-strength" data-mode="sides">
{FIRST}
<div class="field strength"><label for="compare-strength-first">Strength</label>
<input id="compare-strength-first" type="number" step="0.05" value="1"></div></div>
<div class="with-strength">
{SECOND}
<div class="field strength" data-mode="sides"><label for="compare-strength-second">Strength</label>
<input id="compare-strength-second" type="number" step="0.05" value="1"></div></div>
<div class="field" data-mode="sweep"><label for="compare-strengths">Strengths</label>
<input id="compare-strengths" type="text" inputmode="decimal" value="0, 0.25, 0.5, 0.75, 1, 1.25, 1.5"></div>
<div class="field"><label for="compare-prompts">Prompts, one on each line</label>
<textarea id="compare-prompts" rows="6" placeholder="a red fox in the snow"></textarea></div>
<div class="pair"><div class="field"><label for="compare-pictures">Pictures of each</label>
<input id="compare-pictures" type="number" min="1" max="16" value="2"></div>
<div class="field"><label for="compare-seed">First seed</label>
<input id="compare-seed" type="number" min="0" value="0"></div></div>
<fieldset class="field"><legend>Scored by</legend><div class="chips" data-rewards></div></fieldset>
{PAINTED_BY}
<div class="notice amber" data-ask hidden role="status"></div>
<div class="notice red" data-error hidden role="alert"></div>
<div class="actions"><button type="submit" class="primary">Paint</button></div></form>
<section class="results" aria-label="pictures"></section></div></div>"""


def compare(workspace: Workspace) -> None:
    """Make it."""
    gr.HTML(HTML, apply_default_css=False, js_on_load=None)
