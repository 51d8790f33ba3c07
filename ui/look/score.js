// The page Score: takes in pictures one after the other, shows the table as it grows, sorts it.
(() => {
    "use strict";
    const PERIOD = 1000, MOST = 50, LARGEST = 32 * 2 ** 20;
    const at = { job: "", told: null, drawn: "", sort: "", down: true, taking: false };
    let f, box, form;

    const start = setInterval(() => {
        if (!window.rlrForms) return;
        clearInterval(start);
        f = window.rlrForms;
        f.page("score", made, tick);
    }, 20);

    function made(page) {
        box = page;
        form = f.$("form", box);
        const drop = f.$(".drop", form), input = f.$("input[type=file]", form);
        input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
        for (const name of ["dragenter", "dragover"]) box.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
        for (const name of ["dragleave", "drop"]) box.addEventListener(name, (event) => { if (name === "drop" || !box.contains(event.relatedTarget)) drop.classList.remove("over"); });
        box.addEventListener("drop", (event) => { event.preventDefault(); take([...event.dataTransfer.files]); });
        document.addEventListener("paste", (event) => {
            const files = [...(event.clipboardData?.files || [])];
            if (document.body.dataset.page === "score" && files.length) { event.preventDefault(); take(files); }
        });
        form.addEventListener("submit", begin);
        box.addEventListener("click", clicked);
    }

    async function take(files) {
        const failed = f.$("[data-error]", form);
        failed.hidden = true;
        if (!files.length || at.taking) return;
        at.taking = true;
        const refused = [];
        try {
            if (at.told?.state !== "waiting") {
                at.job = (await f.ask("rlr/score", {})).job;
                at.told = { state: "waiting", waiting: [] };
            }
            const room = MOST - (at.told.waiting || []).length;
            if (files.length > room) refused.push(`${files.length - room} more than ${MOST} pictures: they are left out`);
            for (const file of files.slice(0, room)) {
                if (!/\.(png|jpe?g|webp)$/i.test(file.name)) { refused.push(`${file.name} is no PNG, JPEG or WebP`); continue; }
                if (file.size > LARGEST) { refused.push(`${file.name} has more than 32 MB`); continue; }
                const answer = await fetch(f.address(`rlr/score/${at.job}/picture?name=${encodeURIComponent(file.name)}`), { method: "PUT", body: file });
                const told = await answer.json().catch(() => ({}));
                if (!answer.ok) { refused.push(f.first(told.error || `the server answered ${answer.status}`)); continue; }
                at.told.waiting = [...(at.told.waiting || []), told];
                thumbs();
            }
        } catch (error) { refused.push(error.message); }
        at.taking = false;
        if (refused.length) f.problem(failed, refused.join("\n"));
        tick();
    }

    function thumbs() {
        const waiting = at.told?.state === "waiting" ? at.told.waiting || [] : [], known = waiting.filter((each) => each.prompt).length;
        f.$(".thumbs", form).innerHTML = waiting.map((each) => `<img src="${f.address(`rlr/job/score/${at.job}/${each.file}?side=128`)}" alt="${f.escaped(each.name)}" title="${f.escaped(each.name)}">`).join("");
        const own = f.$("[data-own]", form);
        own.hidden = !known;
        f.$("span", own).textContent = known === waiting.length ? "Use the prompt that each picture's file tells" : `Use the prompt that a picture's file tells (${known} of ${waiting.length} do)`;
        f.$("button[type=submit]", form).textContent = waiting.length ? `Score ${waiting.length} picture${waiting.length === 1 ? "" : "s"}` : "Score";
        f.$("button[type=submit]", form).disabled = !waiting.length;
        f.$("[data-clear]", form).hidden = !waiting.length && !(at.told?.rows || []).length;
    }

    async function begin(event) {
        event.preventDefault();
        const told = await f.submit(form, `rlr/score/${at.job}/start`, { prompt: f.$("#score-prompt", form).value, own: f.$("[data-own] input", form).checked });
        if (told) tick();
    }

    async function tick() {
        clearTimeout(tick.timer);
        if (!box || at.taking || document.hidden || document.body.dataset.page !== "score") return;
        try {
            at.told = await f.ask(`rlr/score?job=${at.job}`);
            at.job = at.told.job || "";
            thumbs();
            draw(at.told);
        } catch (error) { at.job = ""; }
        if (at.told?.state === "working") tick.timer = setTimeout(tick, PERIOD);
    }

    function draw(told) {
        const place = f.$(".results", box), mark = JSON.stringify([told, at.sort, at.down]);
        if (mark === at.drawn) return;
        at.drawn = mark;
        if (!told.rows?.length) { place.innerHTML = offered(told.offered); return; }
        const names = told.rewards, problems = told.problems || {};
        const key = (row) => at.sort === "picture" ? row.name : at.sort === "prompt" ? row.prompt : row.scores[at.sort] ?? -Infinity;
        const rows = at.sort ? [...told.rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (at.down ? -1 : 1)) : told.rows;
        const most = Object.fromEntries(names.map((name) => [name, Math.max(...told.rows.map((row) => row.scores[name] ?? -Infinity))]));
        const places = Object.fromEntries(names.map((name) => [name, f.digits(told.rows.map((row) => row.scores[name]))]));
        const focused = document.activeElement?.dataset?.sort;
        const column = (name, title) => `<th scope="col" aria-sort="${at.sort === name ? at.down ? "descending" : "ascending" : "none"}"><button type="button" data-sort="${f.escaped(name)}">${f.escaped(title)}<i aria-hidden="true">${at.sort === name ? at.down ? "↓" : "↑" : ""}</i></button></th>`;
        place.innerHTML = `${state(told)}<div class="result-head"><h2>${told.rows.length} picture${told.rows.length === 1 ? "" : "s"}</h2><div class="actions">
            ${told.state === "finished" ? `<a class="button" download href="${f.address(`rlr/score/${told.job}/scores.csv`)}">Download as CSV</a>` : ""}</div></div>
            <div class="table-scroll" tabindex="0" role="group" aria-label="scores"><table class="scores"><thead><tr>${column("picture", "Picture")}${names.map((name) => column(name, name)).join("")}</tr></thead><tbody>
            ${rows.map((row) => `<tr><th scope="row"><div class="who"><img loading="lazy" alt="" src="${f.address(`rlr/job/score/${told.job}/${row.file}?side=128`)}"><div><b>${f.escaped(row.name)}</b><span title="${f.escaped(row.prompt)}">${f.escaped(row.prompt)}</span></div></div></th>
            ${names.map((name) => `<td class="${told.rows.length > 1 && row.scores[name] === most[name] ? "most" : ""}">${name in problems ? "–" : name in row.scores ? f.number(row.scores[name], places[name]) : ""}</td>`).join("")}</tr>`).join("")}
            </tbody>${told.rows.length > 1 ? `<tfoot><tr><th scope="row">Mean</th>${names.map((name) => `<td>${name in told.means ? f.number(told.means[name], places[name]) : name in problems ? "–" : ""}</td>`).join("")}</tr></tfoot>` : ""}</table></div>
            ${Object.entries(problems).map(([name, text]) => `<p class="soft"><b>${f.escaped(name)}</b>: ${f.escaped(f.first(text))}</p>`).join("")}${missing(told.offered)}`;
        if (focused) f.all("[data-sort]", place).find((button) => button.dataset.sort === focused)?.focus({ preventScroll: true });
    }

    function state(told) {
        if (told.state === "working") return f.progress(told, "scoring");
        if (told.state === "cancelled") return '<div class="notice amber">Cancelled: the columns that were done are below.</div>';
        return told.state === "failed" || told.state === "died" ? `<div class="notice red"><pre tabindex="0">${f.escaped(told.error)}</pre></div>` : "";
    }

    const missing = (rewards) => {
        const names = rewards.filter((reward) => !reward.there).map((reward) => reward.name);
        return names.length ? `<p class="soft">Not installed: ${f.escaped(names.join(", "))}. The page Train downloads them.</p>` : "";
    };

    const offered = (rewards) => `<div class="offered"><h2>Rewards</h2><ul>${[...rewards].sort((a, b) => b.there - a.there).map((reward) => `<li class="${reward.there ? "" : "absent"}"><b>${f.escaped(reward.name)}</b>
        <span>${f.escaped(reward.measures)}</span><i>${reward.there ? "" : "not installed"}</i></li>`).join("")}</ul></div>`;

    async function clicked(event) {
        const target = event.target.closest("[data-sort], [data-cancel], [data-clear]");
        if (!target) return;
        const data = target.dataset;
        try {
            if (data.sort) {
                at.down = at.sort === data.sort ? !at.down : data.sort !== "picture";
                at.sort = data.sort;
                draw(at.told);
            } else if ("cancel" in data) { target.disabled = true; await f.ask(`rlr/job/score/${at.told.job}/cancel`, {}); tick(); }
            else { at.job = (await f.ask("rlr/score", {})).job; at.sort = ""; tick(); f.$("input[type=file]", form).focus(); }
        } catch (error) { window.rlr.toast(error.message); target.disabled = false; }
    }
})();
