// The page Compare: starts a comparison, shows it as it is painted, and looks closer at the same place of all rows.
(() => {
    "use strict";
    const PERIOD = 1000;
    const at = { job: "", told: null, drawn: "", pickers: {}, own: false };
    let f, box, form;

    const start = setInterval(() => {
        if (!window.rlrForms) return;
        clearInterval(start);
        f = window.rlrForms;
        f.page("compare", made, tick);
    }, 20);
    window.addEventListener("rlr-compare", (event) => preselect(event.detail));

    function made(page) {
        box = page;
        form = f.$("form", box);
        for (const pick of f.all("[data-pick]", box)) at.pickers[pick.dataset.pick.replace("compare-", "")] = f.picker(pick, () => propose());
        at.pickers.first.set({ key: "base", label: "The base, without a LoRA", group: "" });
        form.addEventListener("change", (event) => { if (event.target.name === "mode") mode(); count(); });
        form.addEventListener("input", (event) => { if (event.target.id === "compare-prompts") at.own = true; count(); });
        form.addEventListener("submit", begin);
        box.addEventListener("click", clicked);
        mode();
        if (at.wanted) preselect(at.wanted); else again();
    }

    // a run's button sends us here: its LoRA against the base
    async function preselect(name) {
        at.wanted = name;
        if (!box) return;
        at.wanted = "";
        at.waiting = true;  // the pictures of another comparison are not taken for this run's
        draw({});
        try {
            const { choices } = await f.ask(`rlr/compare/choices?base=false&search=${encodeURIComponent(name)}`);
            const mine = choices.filter((choice) => choice.group === name);
            if (!mine.length) return;
            at.pickers.first.set({ key: "base", label: "The base, without a LoRA", group: "" });
            at.pickers.second.set(mine[0]);
            at.own = false;
            await propose();
            f.$("button[type=submit]", form).focus({ preventScroll: true });
        } catch (error) { window.rlr.toast(error.message); }
    }

    // what is shown is what the form says, also after a reload and in a second browser
    async function again() {
        try {
            const { asked, labels } = await f.ask("rlr/compare");
            if (!asked || !labels) { await newest(); return; }
            const keys = asked.sweep ? { second: asked.second } : { first: asked.first, second: asked.second };
            Object.entries(keys).forEach(([name, key], k) => at.pickers[name].set({ key, label: labels[k], group: "" }));
            if (asked.checkpoint) at.pickers.checkpoint.set({ key: asked.checkpoint, label: asked.checkpoint.split(/[/\\]/).pop(), group: "" });
            form.elements.mode.value = asked.sweep ? "sweep" : "sides";
            const fields = { prompts: asked.prompts.join("\n"), pictures: asked.pictures, seed: asked.seed };
            if (asked.sweep) fields.strengths = asked.strengths.join(", ");
            else Object.assign(fields, { "strength-first": asked.strengths[0], "strength-second": asked.strengths[1] });
            for (const [name, value] of Object.entries(fields)) f.$(`#compare-${name}`, form).value = value;
            at.own = true;
            mode();
            await propose(asked.rewards);
        } catch (error) { window.rlr.toast(error.message); }
    }

    async function newest() {
        try {
            const { choices } = await f.ask("rlr/compare/choices?base=false");
            if (choices.length && !at.pickers.second.key) at.pickers.second.set(choices[0]);
            await propose();
        } catch (error) { window.rlr.toast(error.message); }
    }

    async function propose(chosen) {
        const { first, second } = at.pickers;
        try {
            const told = await f.ask(`rlr/compare/proposed?first=${encodeURIComponent(first.key)}&second=${encodeURIComponent(second.key)}`);
            const prompts = f.$("#compare-prompts", form);
            if (!at.own || !prompts.value.trim()) { prompts.value = told.prompts.join("\n"); at.own = false; }
            const rewards = chosen || told.rewards, place = (reward) => rewards.includes(reward.name) ? rewards.indexOf(reward.name) : rewards.length;
            f.$("[data-rewards]", form).innerHTML = told.offered.sort((a, b) => place(a) - place(b)).map((reward) => `<label class="chip" title="${f.escaped(reward.measures)}">
                <input type="checkbox" value="${f.escaped(reward.name)}" ${rewards.includes(reward.name) ? "checked" : ""}><span>${f.escaped(reward.name)}</span></label>`).join("");
        } catch (error) { window.rlr.toast(error.message); }
        count();
    }

    const value = (id) => f.$(`#compare-${id}`, form).value;
    const sweep = () => form.elements.mode.value === "sweep";
    const strengths = () => sweep() ? value("strengths").split(/[,;\s]+/).filter(Boolean).map(Number) : [Number(value("strength-first")), Number(value("strength-second"))];
    const prompts = () => value("prompts").split("\n").map((line) => line.trim()).filter(Boolean);

    function mode() {
        for (const part of f.all("[data-mode]", form)) part.hidden = part.dataset.mode !== form.elements.mode.value;
        f.$("label[for=compare-second]", form).textContent = sweep() ? "LoRA" : "Second";
        count();
    }

    function count() {
        const pictures = prompts().length * Number(value("pictures")) * strengths().length;
        f.$("button[type=submit]", form).textContent = pictures > 0 && !f.$("[data-ask]", form).hidden ? "Paint anyway" : pictures > 0 ? `Paint ${pictures} pictures` : "Paint";
    }

    async function begin(event) {
        event.preventDefault();
        const { first, second, checkpoint } = at.pickers;
        const rewards = f.all("[data-rewards] input:checked", form).map((input) => input.value);
        const told = await f.submit(form, "rlr/compare", { first: first.key, second: second.key, checkpoint: checkpoint.key, sweep: sweep(), rewards,
            strengths: strengths(), prompts: prompts(), pictures: Number(value("pictures")), seed: Number(value("seed")) });
        count();
        if (!told) return;
        at.job = told.job;
        at.waiting = false;
        await tick();
        if (innerWidth < 1100) f.$(".results", box).scrollIntoView({ behavior: "smooth" });
    }

    async function tick() {
        clearTimeout(tick.timer);
        if (at.waiting || !box || document.hidden || document.body.dataset.page !== "compare") return;
        try {
            const width = Math.min(640, f.$(".results", box).clientWidth);
            at.told = await f.ask(`rlr/compare?job=${at.job}&width=${width}`);
            draw(at.told);
        } catch (error) { at.job = ""; }
        if (at.told?.state === "working") tick.timer = setTimeout(tick, PERIOD);
    }

    const source = (told, row, column, side) => f.address(`rlr/job/compare/${told.job}/${row}-${column}.png?side=${side}`);

    function draw(told) {
        const place = f.$(".results", box), mark = JSON.stringify(told);
        if (mark === at.drawn) return;
        at.drawn = mark;
        if (!told.rows) {
            place.innerHTML = `<div class="empty"><h2>Nothing was compared yet</h2><p>Choose a LoRA, or a checkpoint of a run, and paint the same pictures
                with it and without. Pictures appear here as they are painted.</p></div>`;
            return;
        }
        const focused = document.activeElement?.dataset?.cell;
        const there = new Set((told.pictures || []).map(([row, column]) => `${row}-${column}`));
        const ratio = told.size ? `${told.size[0]} / ${told.size[1]}` : "1";
        const names = Object.keys(told.scores);
        place.innerHTML = `${head(told)}<div class="grid-scroll" tabindex="0" role="group" aria-label="all pictures"><table class="grid" style="--ratio:${ratio}"><thead><tr><td></td>${told.prompts.map((prompt, k) =>
            `<th scope="col" title="${f.escaped(prompt)}"><span>${f.escaped(prompt)}</span><small>seed ${told.seeds[k]}</small></th>`).join("")}</tr></thead><tbody>${told.rows.map((row, r) =>
            `<tr><th scope="row"><b>${f.escaped(told.sweep ? `Strength ${row.label}` : row.label)}</b>${names.map((name) => `<small><i>${f.escaped(name)}</i> ${f.escaped(row.means[name])}</small>`).join("")}</th>${told.prompts.map((prompt, c) =>
            `<td>${there.has(`${r}-${c}`) ? `<button type="button" class="cell" data-cell="${r}-${c}" aria-label="${f.escaped(`${row.label}: ${prompt}, seed ${told.seeds[c]}; look closer`)}"><img alt="" loading="lazy" src="${source(told, r, c, 512)}"></button>`
                : '<div class="cell waiting"></div>'}${names.map((name) => `<small title="${f.escaped(name)}"><i>${f.escaped(name)}</i><b>${f.number(told.scores[name][r][c])}</b></small>`).join("")}</td>`).join("")}</tr>`).join("")}</tbody></table></div>
            ${told.charts.join("")}`;
        if (focused) f.$(`[data-cell="${focused}"]`, place)?.focus({ preventScroll: true });
    }

    function head(told) {
        const problems = Object.entries(told.problems || {}).map(([name, text]) => `<div class="notice amber"><b>${f.escaped(name)} could not score them.</b> ${f.escaped(f.first(text))}</div>`).join("");
        const state = told.state === "working" ? f.progress(told, "painting")
            : told.state === "failed" || told.state === "died" ? `<div class="notice red"><pre tabindex="0">${f.escaped(told.error)}</pre></div>`
                : told.state === "cancelled" ? '<div class="notice amber">Cancelled: what was painted stays here.</div>' : "";
        const answers = told.answers.map((text) => `<p class="answer">${f.escaped(text)}</p>`).join("");
        const best = told.best && told.state === "finished" ? `<button type="button" class="${told.best.clear ? "primary" : ""}" data-prefer>Make ${told.best.strength} the preferred weight</button>` : "";
        const sheet = told.sheet ? `<a class="button" download href="${f.address(`rlr/compare/${told.job}/sheet.png`)}">Save as PNG</a>` : "";
        return `<div class="result-head"><div><h2>${f.escaped(told.title)}</h2>${answers}</div><div class="actions">${best}${sheet}</div></div>${state}${problems}`;
    }

    async function clicked(event) {
        const target = event.target.closest("[data-cell], [data-cancel], [data-prefer]");
        if (!target) return;
        const data = target.dataset;
        try {
            if (data.cell) closer(...data.cell.split("-").map(Number));
            else if ("cancel" in data) { target.disabled = true; await f.ask(`rlr/job/compare/${at.told.job}/cancel`, {}); await tick(); }
            else if ("prefer" in data) { window.rlr.toast((await f.ask(`rlr/compare/${at.told.job}/prefer`, {})).told); target.disabled = true; }
        } catch (error) { window.rlr.toast(error.message); target.disabled = false; }
    }

    // closer: one column, all rows beside each other, enlarged at the same place
    function closer(row, column) {
        const told = at.told, from = document.activeElement;
        const dialog = document.createElement("dialog");
        dialog.className = "rlr closer";
        dialog.setAttribute("aria-label", "pictures from close by");
        document.body.append(dialog);
        const there = new Set(told.pictures.map(([r, c]) => `${r}-${c}`));
        const show = () => {
            const rows = told.rows.map((each, r) => [each, r]).filter(([, r]) => there.has(`${r}-${column}`));
            dialog.innerHTML = `<header><div><b>${f.escaped(told.prompts[column])}</b> <span class="soft">seed ${told.seeds[column]}</span></div>
                <div class="actions"><button type="button" data-step="-1" aria-label="picture before">←</button><button type="button" data-step="1" aria-label="next picture">→</button>
                <button type="button" data-close>Close</button></div></header><div class="together" style="--ratio:${told.size[0] / told.size[1]};--count:${Math.min(rows.length, 4)}">${rows.map(([each, r]) =>
                `<figure class="${r === row ? "chosen" : ""}"><div class="lens"><img alt="${f.escaped(`${each.label}: ${told.prompts[column]}`)}" src="${source(told, r, column, 2048)}"></div>
                <figcaption><b>${f.escaped(told.sweep ? `Strength ${each.label}` : each.label)}</b> ${Object.keys(told.scores).map((name) => `${f.escaped(name)} ${f.number(told.scores[name][r][column])}`).join(" · ")}</figcaption></figure>`).join("")}</div>
                <p class="soft">Point at a picture to see the same place of all, three times as large, or press Z. Arrow keys: the next picture.</p>`;
        };
        const step = (by) => { column = (column + by + told.prompts.length) % told.prompts.length; show(); f.$(`[data-step="${by}"]`, dialog).focus(); };
        dialog.addEventListener("click", (event) => {
            const button = event.target.closest("button");
            if (event.target === dialog || button?.matches("[data-close]")) dialog.close();
            else if (button) step(Number(button.dataset.step));
        });
        dialog.addEventListener("keydown", (event) => {
            if (event.key === "z") f.$(".together", dialog).classList.toggle("near");
            if (event.key === "ArrowLeft" || event.key === "ArrowRight") { event.preventDefault(); step(event.key === "ArrowLeft" ? -1 : 1); }
        });
        dialog.addEventListener("pointermove", (event) => {
            const lens = event.target.closest(".lens"), together = f.$(".together", dialog);
            together.classList.toggle("near", Boolean(lens));
            if (!lens) return;
            const place = lens.getBoundingClientRect();
            together.style.setProperty("--x", `${100 * (event.clientX - place.left) / place.width}%`);
            together.style.setProperty("--y", `${100 * (event.clientY - place.top) / place.height}%`);
        });
        for (const name of ["pointerup", "pointercancel"]) dialog.addEventListener(name, (event) => {
            if (event.pointerType !== "mouse") f.$(".together", dialog).classList.remove("near");
        });
        dialog.addEventListener("close", () => { dialog.remove(); from?.focus?.({ preventScroll: true }); });
        show();
        dialog.showModal();
        f.$("[data-close]", dialog).focus();
    }
})();
