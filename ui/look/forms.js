// What the pages Compare, Score and Settings share: asking the server, pickers, a second click where a run is training.
(() => {
    "use strict";
    const $ = (selector, root = document) => root.querySelector(selector);
    const all = (selector, root = document) => [...root.querySelectorAll(selector)];
    const escaped = (text) => String(text ?? "").replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
    const address = (path) => new URL(path, new URL("./", document.baseURI.replace(/[?#].*$/, ""))).href;
    const ask = (path, values) => window.rlr.ask(path, values);
    const first = (text) => String(text ?? "").split("\n")[0];
    const digits = (values) => Math.max(...values.map((value) => Math.abs(value ?? 0))) < 100 ? 3 : 1;
    const number = (value, places = digits([value])) => value === null || value === undefined ? "–" : Number(value).toFixed(places).replace("-", "−");

    // runs `shown` whenever the page comes into view, and `made` once when Gradio has made it
    function page(name, made, shown) {
        const waiting = setInterval(() => {
            const box = $(`#${name}`);
            if (!box || !window.rlr) return;
            clearInterval(waiting);
            made(box);
            const look = () => { if (document.body.dataset.page === name) shown(); };
            new MutationObserver(look).observe(document.body, { attributes: true, attributeFilter: ["data-page"] });
            document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
            look();
        }, 40);
    }

    // says what is wrong, and what it will cost; returns the answer where nothing stands against it
    async function submit(form, path, values) {
        const [asking, failed, button] = [$("[data-ask]", form), $("[data-error]", form), $("button[type=submit]", form)];
        const sure = !asking.hidden;
        failed.hidden = asking.hidden = true;
        button.disabled = true;
        try {
            const told = await ask(path, { ...values, sure });
            if (!told.ask) return told;
            asking.textContent = `${told.ask} Press again to do it all the same.`;
            asking.hidden = false;
        } catch (error) { problem(failed, error.message); }
        finally { button.disabled = false; }
        return null;
    }

    function problem(box, text) {
        const [what, ...more] = String(text).split("\n");
        box.innerHTML = `<b>${escaped(what)}</b>${more.map((line) => `<div>${escaped(line.trim().replace(/^(expected|what to do): +/, (_, k) => `${k}: `))}</div>`).join("")}`;
        box.hidden = false;
    }

    const progress = (told, what) => `<div class="progress" role="status"><div class="row"><span>${escaped(told.doing || what)}</span>
        <span class="soft">${told.total ? `${told.done} of ${told.total}` : ""}</span><button type="button" data-cancel>Cancel</button></div>
        <div class="bar" role="progressbar" aria-label="${escaped(what)}" aria-valuemin="0" aria-valuemax="100"
        aria-valuenow="${told.total ? Math.round(100 * told.done / told.total) : 0}"><i style="width:${told.total ? 100 * told.done / told.total : 0}%"></i></div></div>`;

    // a picker: a text box that searches, a list under it; its value is a key that the server knows
    function picker(box, changed) {
        const input = $("input", box), list = $("ul", box), state = { key: "", label: "", choices: [], at: -1, ticket: 0 };
        const close = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); };
        const show = () => { input.value = state.label; };

        async function open(search) {
            const ticket = ++state.ticket, path = box.dataset.from;
            let told;
            try { told = await ask(`${path}${path.includes("?") ? "&" : "?"}search=${encodeURIComponent(search)}`); } catch (error) { window.rlr.toast(error.message); return; }
            if (ticket !== state.ticket || document.activeElement !== input) return;
            state.choices = told.choices;
            state.at = Math.max(0, told.choices.findIndex((choice) => choice.key === state.key));
            draw();
            list.hidden = false;
            input.setAttribute("aria-expanded", "true");
        }

        function draw() {
            let group = null;
            list.innerHTML = state.choices.map((choice, k) => {
                const head = choice.group && choice.group !== group ? `<li class="group" role="presentation">${escaped(choice.group)}</li>` : "";
                group = choice.group;
                return `${head}<li role="option" id="${list.id}-${k}" data-k="${k}" aria-selected="${k === state.at}">${escaped(choice.label)}</li>`;
            }).join("") || '<li class="group" role="option" aria-disabled="true" aria-selected="false">Nothing of that name</li>';
            mark();
        }

        function mark() {
            for (const item of all("[data-k]", list)) item.setAttribute("aria-selected", Number(item.dataset.k) === state.at);
            const item = $(`[data-k="${state.at}"]`, list);
            if (item) { input.setAttribute("aria-activedescendant", item.id); item.scrollIntoView({ block: "nearest" }); }
        }

        function choose(choice) { set(choice); close(); changed?.(choice); }
        function set(choice) {
            state.key = choice.key;
            state.label = choice.key === "" ? "" : choice.group && choice.key !== "embedded" && !box.dataset.from.includes("checkpoints") ? `${choice.group.split(/[/\\]/).pop()}: ${choice.label}` : choice.label;
            show();
        }

        input.addEventListener("focus", () => { input.select(); open(""); });
        input.addEventListener("click", () => { if (list.hidden) open(""); });
        input.addEventListener("input", () => open(input.value));
        input.addEventListener("blur", () => { state.ticket += 1; close(); show(); });
        input.addEventListener("keydown", (event) => {
            if (event.key === "Escape") { close(); show(); }
            else if (event.key === "Enter" && !list.hidden) { event.preventDefault(); if (state.choices[state.at]) choose(state.choices[state.at]); }
            else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
                event.preventDefault();
                if (list.hidden) { open(""); return; }
                const count = state.choices.length;
                if (count) { state.at = (state.at + (event.key === "ArrowDown" ? 1 : count - 1)) % count; mark(); }
            }
        });
        list.addEventListener("pointerdown", (event) => {
            event.preventDefault();
            const item = event.target.closest("[data-k]");
            if (item) choose(state.choices[Number(item.dataset.k)]);
        });
        return { get key() { return state.key; }, set, get label() { return state.label; } };
    }

    window.rlrForms = { $, all, escaped, address, ask, first, digits, number, page, submit, problem, progress, picker };
})();
