// The rail, and the page of runs: asks the server for what has changed, and draws nothing while it is not seen.
(() => {
    "use strict";
    const PAGES = ["train", "runs", "compare", "score", "settings"];
    const TITLES = { train: "Train", runs: "Runs", compare: "Compare", score: "Score", settings: "Settings" };
    const PERIOD = 1000;
    const at = { page: "train", run: "", search: "", marks: {}, shown: null, previews: [], position: -1, following: true, state: "", last: "" };
    const $ = (selector, root = document) => root.querySelector(selector);
    const make = (html) => { const box = document.createElement("template"); box.innerHTML = html.trim(); return box.content.firstChild; };
    const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
    const base = () => new URL("./", document.baseURI.replace(/[?#].*$/, ""));

    async function ask(path, values) {
        const options = values === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values) };
        const answer = await fetch(new URL(path, base()), options);
        const told = await (isText(answer) ? answer.text().then((error) => ({ error })) : answer.json()).catch(() => ({}));
        if (!answer.ok) throw new Error(told.error || `the server answered ${answer.status}`);
        return told;
    }

    // a webui in front of the server says in plain words why it is not there
    const isText = (answer) => answer.headers.get("Content-Type")?.startsWith("text/plain");

    function toast(text) {
        const box = $("#toast");
        box.textContent = text;
        box.classList.add("shown");
        clearTimeout(toast.timer);
        toast.timer = setTimeout(() => box.classList.remove("shown"), 2500 + 40 * text.length);
    }

    // where we are: the address says it, so that a reload, a link and a second browser show the same
    function read() {
        const query = new URLSearchParams(location.search);
        const page = query.get("view");
        show(PAGES.includes(page) ? page : "train", query.get("run") || "", false);
    }

    function show(page, run = "", push = true) {
        const changed = run !== at.run;
        Object.assign(at, { page, run, last: page === "runs" ? run : at.last });
        if (changed) Object.assign(at, { marks: {}, previews: [], position: -1, following: true, state: "", shown: null });
        document.body.dataset.page = page;
        document.title = `${run || TITLES[page]} · RLR`;
        for (const link of document.querySelectorAll("#rail nav a")) {
            if (link.dataset.page === page) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
        }
        if (push) {
            const query = new URLSearchParams({ view: page });
            if (run) query.set("run", run);
            history.pushState(null, "", `?${query}`);
            scrollTo(0, 0);
        }
        const runs = $(".runs");
        if (runs) runs.classList.toggle("chosen", Boolean(run));
        if (changed && runs) $(".runs section").replaceChildren(run ? make(frame()) : make(nothing()));
        if (page === "runs") tick();
    }

    const frame = () => `<div class="run"><p class="back"><button type="button" data-back>All runs</button></p><div data-piece="head"></div>
        <div data-piece="pictures"></div><div data-piece="better"></div>
        <details><summary>Under the hood</summary><div data-piece="hood"></div></details></div>`;
    const nothing = () => `<div class="empty"><h2>${at.total ? "Choose a run" : "No runs yet"}</h2>
        <p>${at.total ? "Its pictures, its scores and what can be done with it are shown here." : "Train on a checkpoint of your own, or try the built-in demo: no download, a few minutes. Its LoRA is for its own small checkpoint alone."}</p>
        <p><button type="button" class="primary" data-demo>Train the built-in demo</button> <button type="button" data-go="train">Train on my checkpoint</button></p></div>`;

    async function tick() {
        clearTimeout(tick.timer);
        if (tick.busy) { tick.again = true; return; }
        tick.busy = true;
        try {
            if (!document.hidden && at.page === "runs" && $(".runs")) {
                await list();
                if (at.run) await run();
                $("#offline")?.remove();
            }
        } catch (error) {
            if (at.page === "runs" && !$("#offline")) $(".runs section")?.prepend(make(`<div class="notice amber" id="offline"></div>`));
            if ($("#offline")) $("#offline").textContent = error instanceof TypeError
                ? "The GUI's server does not answer. A training goes on without it: start it again with `python install.py ui`, or the webui that it is in." : error.message;
        }
        tick.busy = false;
        clearTimeout(tick.timer);
        if (tick.again) { tick.again = false; tick(); return; }
        tick.timer = setTimeout(tick, PERIOD);
    }

    async function list() {
        const search = at.search;
        const { lines, total } = await ask(`rlr/runs?search=${encodeURIComponent(search)}`);
        const before = at.total;
        at.total = total;
        const rows = lines.map((line) => `<li><a href="?view=runs&run=${encodeURIComponent(line.name)}" data-run="${escaped(line.name)}"
            ${line.name === at.run ? 'aria-current="page"' : ""}><b>${escaped(line.name)}</b>${line.badge}
            <span class="soft"><span>${escaped(line.gain)}</span><span>${escaped(line.when)}</span></span></a></li>`).join("");
        const more = total > lines.length && !search ? `<p class="note" style="padding:0 12px">${lines.length} of ${total}: search finds the others.</p>` : "";
        const box = $(".runs ul.list");
        if (box.dataset.html !== rows) {
            const focused = document.activeElement?.dataset?.run;
            box.innerHTML = rows;
            box.dataset.html = rows;
            if (focused) [...box.querySelectorAll("a")].find((a) => a.dataset.run === focused)?.focus();
        }
        $(".runs .more").innerHTML = more;
        $(".runs").classList.toggle("none", !total && !search);
        if (!at.run && before !== total) $(".runs section").replaceChildren(make(nothing()));
    }

    async function run() {
        const name = at.run, box = $(".runs section");
        const width = Math.round(box.clientWidth - parseFloat(getComputedStyle(box).paddingLeft) * 2);
        const told = await ask(`rlr/run/${encodeURIComponent(name)}?width=${width}&seen=${Object.values(at.marks).join(",")}`);
        if (name !== at.run) return;
        at.state = told.state;
        at.marks = told.marks;
        for (const [piece, value] of Object.entries(told.pieces)) {
            if (piece === "pictures") pictures(value.iterations, value.prompts); else put(piece, value);
        }
    }

    function put(piece, html) {
        const box = $(`[data-piece="${piece}"]`);
        const focused = box.contains(document.activeElement) ? document.activeElement.dataset.action : "";
        const scrolled = [...box.querySelectorAll("pre")].map((pre) => pre.scrollTop);
        box.innerHTML = html;
        [...box.querySelectorAll("pre")].forEach((pre, k) => { pre.scrollTop = scrolled[k] ?? pre.scrollHeight; });
        if (focused) box.querySelector(`[data-action="${focused}"]`)?.focus();
    }

    // pictures: the start below, the chosen moment above it, a wipe between them
    const tile = (iteration, k, count) => new URL(`rlr/picture/${encodeURIComponent(at.run)}/previews/${String(iteration).padStart(6, "0")}.png?tile=${k}&of=${count}&side=512`, base()).href;

    function pictures(previews, prompts) {
        at.previews = previews;
        at.count = prompts.length;
        const box = $('[data-piece="pictures"]');
        if (!previews.length) { box.innerHTML = ""; return; }
        if (at.following || at.position >= previews.length) at.position = previews.length - 1;
        if (!$(".pairs", box)) {
            box.innerHTML = `<div class="pairs"></div><p class="note">Move over a picture, or use the arrow keys on it: the start appears from the left.</p>
                <div class="timeline"><span>start</span>
                <input type="range" min="0" step="1" aria-label="which preview"><output></output></div>`;
            $(".pairs", box).innerHTML = prompts.map((prompt, k) => `<figure><div class="wipe" tabindex="0" role="slider" data-wipe
                aria-label="${escaped(prompt)}: start or now" aria-valuemin="0" aria-valuemax="100" aria-valuenow="0">
                <img alt="${escaped(prompt)}" data-k="${k}"><img alt="" src="${tile(previews[0], k, prompts.length)}"></div><figcaption title="${escaped(prompt)}">${escaped(prompt)}</figcaption></figure>`).join("");
            $("input", box).addEventListener("input", (event) => {
                at.position = Number(event.target.value);
                at.following = at.position === at.previews.length - 1;
                moment();
            });
        }
        $("input", box).max = previews.length - 1;
        $("input", box).value = at.position;
        moment();
    }

    function moment() {
        const preview = at.previews[at.position], box = $('[data-piece="pictures"]');
        $("output", box).textContent = at.position === 0 ? "the start" : `iteration ${preview}`;
        $("input", box).setAttribute("aria-valuetext", $("output", box).textContent);
        for (const image of box.querySelectorAll("img[data-k]")) {
            const source = tile(preview, image.dataset.k, at.count);
            if (image.src !== source) image.src = source;
        }
    }

    const wipe = (box, share) => {
        const to = Math.max(0, Math.min(100, share));
        box.style.setProperty("--at", `${to}%`);
        box.setAttribute("aria-valuenow", Math.round(to));
    };

    // dialogs
    function dialog(title, fields, button, submit) {
        const box = make(`<dialog class="rlr" aria-label="${escaped(title)}"><form method="dialog"><h3>${escaped(title)}</h3>${fields}
            <div class="notice red" hidden></div><div class="actions"><button type="button" data-close>Cancel</button>
            <button type="submit" class="primary">${escaped(button)}</button></div></form></dialog>`);
        document.body.append(box);
        box.addEventListener("close", () => box.remove());
        $("[data-close]", box).addEventListener("click", () => box.close());
        $("form", box).addEventListener("submit", async (event) => {
            event.preventDefault();
            try {
                const told = await submit(Object.fromEntries(new FormData($("form", box))));
                box.close();
                if (told.told) toast(told.told);
                if (told.gone) show("runs");
                tick();
            } catch (error) {
                $(".notice", box).hidden = false;
                $(".notice", box).textContent = error.message;
            }
        });
        box.showModal();
    }

    const options = (values, label = (value) => value) => values.map((value) => `<option value="${escaped(value)}">${escaped(label(value))}</option>`).join("");
    const explained = (file) => file.endsWith("-best.safetensors") ? `${file} (the best of the checks)` : file;

    async function exporting(path) {
        const told = await ask(`${path}/choices`, {});
        const sources = [...told.files, ...told.checkpoints.map((n) => `checkpoint ${n}`)];
        dialog("Export", `<label>LoRA<select name="file">${options(sources, explained)}</select></label>
            <label>Name<input name="as" value="${escaped(told.name)}" required></label>
            <label>Folder<select name="folder">${options(told.folders)}</select></label>
            <label>Keys (auto: for all programs)<select name="format">${options(told.formats)}</select></label>
            <label>Precision<select name="precision">${options(told.precisions)}</select></label>
            <label>Trigger words<input name="words" placeholder="none are needed"></label>
            <label><input type="checkbox" name="force" style="width:auto"> replace a file of this name</label>`, "Export",
            (values) => ask(`${path}/export`, { ...values, force: values.force === "on" }));
    }

    async function merging(path) {
        const told = await ask(`${path}/choices`, {});
        const sources = [...told.files, ...told.checkpoints.map((n) => `checkpoint ${n}`)];
        dialog("Merge into the checkpoint", `<p>A whole checkpoint with the LoRA in its weights, for programs that load no LoRAs. It takes as much space as the checkpoint.</p>
            <label>LoRA<select name="file">${options(sources, explained)}</select></label>
            <label>Strength<input name="strength" type="number" step="0.05" value="1" required></label>
            <label>Name<input name="as" value="${escaped(told.name)}-merged" required></label>
            <label>Folder<select name="folder">${options(told.checkpoint_folders)}</select></label>
            <label><input type="checkbox" name="force" style="width:auto"> replace a file of this name</label>`, "Merge",
            (values) => { toast("It is being merged …"); return ask(`${path}/merge`, { ...values, force: values.force === "on" }); });
    }

    async function act(name) {
        const path = `rlr/run/${encodeURIComponent(at.run)}`;
        try {
            if (name === "export") return await exporting(path);
            if (name === "merge") return await merging(path);
            if (name === "compare") {
                const run = at.run;  // which is nobody's on another page
                show("compare");
                window.dispatchEvent(new CustomEvent("rlr-compare", { detail: run }));
                return;
            }
            if (name === "extend") return dialog("Train longer", '<label>Iterations more<input name="iterations" type="number" min="1" value="100" required></label>', "Go on",
                (values) => ask(`${path}/extend`, { iterations: Number(values.iterations) }));
            if (name === "delete") return dialog("Delete this run", `<p>Its LoRAs, pictures and checkpoints are deleted for good. Type its name, <code>${escaped(at.run)}</code>:</p>
                <label>Name<input name="name" required autocomplete="off"></label>`, "Delete", (values) => ask(`${path}/delete`, values));
            if (name === "kill") return dialog("Kill this run", "<p>Its process ends at once, and what came after its last checkpoint is lost. <b>Stop and save</b> loses nothing.</p>", "Kill",
                () => ask(`${path}/kill`, {}));
            if (name === "clone") { location.search = `?view=train&clone=${encodeURIComponent(at.run)}`; return; }
            const told = await ask(`${path}/${name}`, {});
            if (told.told) toast(told.told);
        } catch (error) { toast(error.message); }
        tick();
    }

    // weights of rewards: the row tells how far they are
    async function download(button) {
        const path = `rlr/reward/${encodeURIComponent(button.dataset.download)}`, cell = button.parentElement;
        button.disabled = true;
        let told = await ask(`${path}/fetch`, {}).catch((error) => ({ state: "failed", message: error.message }));
        while (told.state === "fetching") {
            cell.textContent = `${(told.done / 1e9).toFixed(2)} of ${(told.total / 1e9).toFixed(2)} GB`;
            await new Promise((later) => setTimeout(later, 1000));
            told = await ask(path).catch(() => told);
        }
        cell.replaceChildren(told.state === "installed" ? "installed: Refresh shows it" : button);
        button.disabled = false;
        if (told.state === "failed") toast(told.message);
    }

    document.addEventListener("click", async (event) => {
        const fetching = event.target.closest("[data-download]");
        if (fetching) { download(fetching); return; }
        const target = event.target.closest("a[data-page], a[data-run], [data-go], [data-demo], [data-action], [data-back], [data-copy]");
        if (!target || event.ctrlKey || event.metaKey) return;
        const data = target.dataset;
        if (data.page || data.run) event.preventDefault();
        if (data.page) show(data.page, data.page === "runs" ? at.run || at.last : "");
        else if (data.run) show("runs", data.run);
        else if (data.go) show(data.go);
        else if ("back" in data) show("runs");
        else if (data.action) act(data.action);
        else if (data.copy) { await navigator.clipboard?.writeText($(data.copy).textContent); toast("Copied."); }
        else if ("demo" in data) {
            target.disabled = true;
            try { show("runs", (await ask("rlr/demo", {})).run); } catch (error) { toast(error.message); target.disabled = false; }
        }
    });
    document.addEventListener("pointermove", (event) => {
        const box = event.target.closest?.("[data-wipe]");
        if (box) { const place = box.getBoundingClientRect(); wipe(box, 100 * (event.clientX - place.left) / place.width); }
        const figure = event.target.closest?.(".chart");
        if (figure) readout(figure, event.clientX);
    });
    document.addEventListener("pointerout", (event) => {
        const box = event.target.closest?.("[data-wipe]");
        if (box && !box.contains(event.relatedTarget)) wipe(box, 0);
    });
    document.addEventListener("keydown", (event) => {
        const box = event.target.closest?.("[data-wipe]");
        const step = { ArrowLeft: -10, ArrowRight: 10, Home: -100, End: 100 }[event.key];
        if (box && step) { event.preventDefault(); wipe(box, Number(box.getAttribute("aria-valuenow")) + step); return; }
        if (event.target.closest?.("input, textarea, select, [contenteditable], dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
        if (event.key === "t") show("train");
        if (event.key === "r") show("runs", at.run || at.last);
        if (event.key === "/") { event.preventDefault(); show("runs", at.run); $(".runs input[type=search]")?.focus(); }
    });
    document.addEventListener("input", (event) => {
        if (event.target.matches(".runs input[type=search]")) { at.search = event.target.value; tick(); }
    });

    function readout(figure, x) {
        const [left, right, end] = figure.dataset.frame.split(",").map(Number);
        const svg = $("svg", figure), scale = svg.getBoundingClientRect(), place = (x - scale.left) / scale.width * svg.viewBox.baseVal.width;
        const iteration = Math.max(0, Math.min(end, (place - left) / (right - left) * end));
        const told = JSON.parse(figure.dataset.chart).curves.map(([name, points]) => {
            const near = points.reduce((a, b) => Math.abs(b[0] - iteration) < Math.abs(a[0] - iteration) ? b : a);
            return `${name} ${near[1].toFixed(3)} at ${Math.round(near[0])}`;
        });
        $(".readout", figure).textContent = told.join(" · ");
        for (const name of ["x1", "x2"]) $(".cursor", figure).setAttribute(name, left + iteration / Math.max(end, 1) * (right - left));
    }

    addEventListener("popstate", read);
    document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
    window.rlr = { show, toast, ask };

    // Gradio mounts the page after this script is there
    const waiting = setInterval(() => {
        if (!$(".runs") || !$("#rail")) return;
        clearInterval(waiting);
        if (!$("#toast")) document.body.append(make('<div id="toast" class="rlr" role="status" aria-live="polite"></div>'));
        $(".runs section").replaceChildren(make(nothing()));
        read();
        if (at.page !== "runs") list().catch(() => {});
    }, 30);
})();
