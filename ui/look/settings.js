// The theme, at once and before anything is drawn; the page Settings.
(() => {
    "use strict";
    const KEY = "rlr-theme";
    const night = matchMedia("(prefers-color-scheme: dark)");
    const around = (() => { try { return window.parent === window ? null : window.parent.document.body; } catch { return null; } })(); // a program whose tab we are
    const dark = () => around ? around.classList.contains("dark") : night.matches;
    const at = { folders: null, asked: false };
    let f, box, form, chosen = "";

    // the browser's copy spares a flash of the other theme; what the server has kept comes after it
    try { chosen = localStorage.getItem(KEY) || ""; } catch { /* a browser that keeps nothing */ }
    function paint() {
        if (!chosen || !document.body) return;
        document.body.classList.toggle("dark", chosen === "dark" || (chosen === "system" && dark()));
    }
    function theme(name) {
        chosen = name;
        try { localStorage.setItem(KEY, name); } catch { /* it is asked for anew next time */ }
        paint();
    }
    night.addEventListener("change", paint);
    if (around) new MutationObserver(paint).observe(around, { attributeFilter: ["class"] });
    new MutationObserver((_, watcher) => { if (document.body) { watcher.disconnect(); paint(); } }).observe(document.documentElement, { childList: true });
    paint();

    const start = setInterval(() => {
        if (!window.rlrForms || !window.rlr) return;
        clearInterval(start);
        f = window.rlrForms;
        f.ask("rlr/settings").then((told) => theme(told.theme)).catch(() => {});
        f.page("settings", made, shown);
    }, 20);

    function made(page) {
        box = page;
        form = f.$("form", box);
        f.$("[data-port]", box).textContent = location.port || "80";
        form.addEventListener("input", dirty);
        form.addEventListener("submit", save);
        box.addEventListener("change", async (event) => {
            if (event.target.name !== "theme") return;
            theme(event.target.value);
            try { await f.ask("rlr/settings/theme", { theme: event.target.value }); } catch (error) { window.rlr.toast(error.message); }
        });
        box.addEventListener("click", clicked);
    }

    async function shown() {
        try {
            const told = await f.ask("rlr/settings");
            f.$("[data-home]", box).textContent = `Folders that are not written out whole are in ${told.home}.`;
            for (const input of f.all("[name=theme]", box)) input.checked = input.value === told.theme;
            if (f.$("button[type=submit]", form).disabled) folders(told.folders);
        } catch (error) { window.rlr.toast(error.message); }
        if (at.asked) return;
        at.asked = true;
        look();
        f.ask("rlr/settings/installed").then(({ lines }) => {
            f.$("[data-installed]", box).innerHTML = lines.map(([name, value]) => `<div><dt>${f.escaped(name)}</dt><dd>${f.escaped(value)}</dd></div>`).join("");
        }).catch(() => { at.asked = false; });
    }

    function folders(given) {
        for (const part of f.all("[data-folders]", form)) f.$("ul", part).innerHTML = given[part.dataset.folders].map((line) => item(part, line)).join("");
    }

    const item = (part, line) => `<li><input type="text" value="${f.escaped(line.folder)}" aria-label="folder for ${part.dataset.folders}" spellcheck="false" title="${f.escaped(line.path || "")}">
        <span class="state ${line.there ? "green" : "grey"}">${line.path ? `<i></i>${line.there ? "there" : "not there"}` : ""}</span>
        ${f.$("[data-add]", part) ? '<button type="button" class="quiet" data-less aria-label="take this folder out">Remove</button>' : ""}</li>`;

    function dirty() { f.$("button[type=submit]", form).disabled = false; }

    async function look() {
        const place = f.$("[data-found]", box);
        try {
            const { found } = await f.ask("rlr/settings/found");
            place.innerHTML = found.map((each) => `<div class="notice blue"><div><b>Found ${f.escaped(each.kind)}</b> at <code>${f.escaped(each.root)}</code></div>
                <button type="button" data-take="${f.escaped(JSON.stringify(each))}">Add its ${[each.checkpoints.length && "checkpoints", each.loras.length && "LoRAs"].filter(Boolean).join(" and ")}</button></div>`).join("");
        } catch { place.innerHTML = ""; }
    }

    const given = () => Object.fromEntries(f.all("[data-folders]", form).map((part) => [part.dataset.folders, f.all("input", part).map((input) => input.value)]));

    async function save(event) {
        event?.preventDefault();
        const failed = f.$("[data-error]", form);
        failed.hidden = true;
        try {
            const told = await f.ask("rlr/settings/folders", given());
            folders(told.folders);
            f.$("button[type=submit]", form).disabled = true;
            window.rlr.toast(told.told);
            window.dispatchEvent(new CustomEvent("rlr-folders"));
        } catch (error) { f.problem(failed, error.message); }
    }

    async function clicked(event) {
        const target = event.target.closest("[data-add], [data-less], [data-take]");
        if (!target) return;
        const data = target.dataset;
        if (data.add) {
            const part = target.closest("[data-folders]");
            f.$("ul", part).insertAdjacentHTML("beforeend", item(part, { folder: "" }));
            f.$("li:last-child input", part).focus();
            dirty();
        } else if ("less" in data) {
            const part = target.closest("[data-folders]");
            target.closest("li").remove();
            f.$("[data-add]", part).focus();
            dirty();
        } else {
            target.disabled = true;
            const each = JSON.parse(data.take);
            for (const name of ["checkpoints", "loras"]) {
                const part = f.$(`[data-folders=${name}]`, form);
                for (const folder of each[name]) f.$("ul", part).insertAdjacentHTML("beforeend", item(part, { folder }));
            }
            await save();
            look();
        }
    }
})();
