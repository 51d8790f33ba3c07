"""The page Score: drop pictures, say the prompt, see every reward. `look/score.js` moves it, `scoring` fills it."""

from __future__ import annotations

import gradio as gr

from ui.scoring import ENDINGS, LARGEST, MOST
from ui.workspace import Workspace

HTML = f"""<div class="rlr form-page score" id="score"><header><h1>Score</h1>
<p class="soft">What every installed reward says of your pictures.</p></header>
<form autocomplete="off" novalidate><label class="drop" tabindex="-1">
<input type="file" multiple accept="{",".join(ENDINGS)}" aria-label="pictures to score">
<b>Drop pictures here, or choose them</b>
<span class="soft">PNG, JPEG or WebP; up to {MOST}, {LARGEST >> 20} MB each</span></label>
<div class="thumbs" aria-label="pictures that are to be scored"></div>
<div class="field"><label for="score-prompt">What they were asked to show</label>
<textarea id="score-prompt" rows="2" placeholder="a red fox in the snow"></textarea></div>
<label class="check" hidden data-own><input type="checkbox" checked><span></span></label>
<div class="notice amber" data-ask hidden role="status"></div><div class="notice red" data-error hidden role="alert"></div>
<div class="actions"><button type="submit" class="primary">Score</button>
<button type="button" data-clear hidden>Clear</button></div></form>
<section class="results" aria-label="scores"></section></div>"""


def score(workspace: Workspace) -> None:
    """Make it."""
    gr.HTML(HTML, apply_default_css=False, js_on_load=None)
