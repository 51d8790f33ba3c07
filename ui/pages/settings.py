"""The page Settings: folders, theme, what is installed. `look/settings.js` moves it, `settling` and `finding` fill it."""

from __future__ import annotations

import gradio as gr

from ui.workspace import Workspace

LISTS = (
    ("runs", "Runs", "All that a training makes: one folder for each run.", False),
    ("checkpoints", "Checkpoints", "Searched with all that is below them.", True),
    ("loras", "LoRAs", "Where finished LoRAs go, so that your program finds them.", True),
    ("rewards", "Rewards", "Weights of published rewards.", False),
)
"""Setting, title, what it is for, and whether there may be several."""


def _folders(name: str, title: str, text: str, several: bool) -> str:
    add = f'<button type="button" class="quiet" data-add="{name}">Add a folder</button>' if several else ""
    return (
        f'<fieldset class="folders" data-folders="{name}"><legend>{title}</legend><p class="soft">{text}</p>'
        f"<ul></ul>{add}</fieldset>"
    )


HTML = f"""<div class="rlr form-page settings" id="settings"><header><h1>Settings</h1>
<p class="soft" data-home></p></header>
<div class="found" data-found></div>
<div class="columns"><form class="card" autocomplete="off" novalidate><h2>Folders</h2>
{"".join(_folders(*each) for each in LISTS)}
<div class="notice red" data-error hidden role="alert"></div>
<div class="actions"><button type="submit" class="primary" disabled>Save folders</button></div></form>
<div class="stack"><section class="card"><h2>Theme</h2><fieldset class="modes"><legend class="hidden">Theme</legend>
<label><input type="radio" name="theme" value="system" checked><span>As the system</span></label>
<label><input type="radio" name="theme" value="light"><span>Light</span></label>
<label><input type="radio" name="theme" value="dark"><span>Dark</span></label></fieldset></section>
<section class="card"><h2>Installed</h2><dl data-installed><div><dt class="soft">looking…</dt><dd></dd></div></dl></section>
<section class="card"><h2>From other machines</h2>
<p>This page answers only on the machine that it runs on. To reach it from a phone or another computer,
start it with a password:</p>
<pre tabindex="0">python install.py ui --listen --auth NAME:PASSWORD</pre>
<p>Then open <code>http://ADDRESS-OF-THIS-MACHINE:<span data-port>7866</span></code> there. Whoever has the password can start
trainings and read the folders above; the password travels unencrypted, so use it in a network that you trust.</p></section>
</div></div></div>"""


def settings(workspace: Workspace) -> None:
    """Make it."""
    gr.HTML(HTML, apply_default_css=False, js_on_load=None)
