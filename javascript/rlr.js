// Loaded by A1111 and Forge: the bar above RLR's frame says what is training, and brings a new LoRA into the prompt; a button
// beside the webui's own ones sends a picture's prompt and size to RLR.
(() => {
    "use strict";
    const PERIOD = 3000;
    let shown = null, known = "";
    const make = (tag, text, act) => Object.assign(document.createElement(tag), { textContent: text, onclick: act || null });

    async function look() {
        const bar = gradioApp().querySelector("#rlr_bar");
        if (!bar || document.hidden) return;
        const answer = await fetch(`${bar.dataset.root}/news`);
        if (!answer.ok) return;
        const { work, loras } = await answer.json();
        const newest = loras[0];
        if (JSON.stringify([work, newest]) === shown) return;
        shown = JSON.stringify([work, newest]);
        bar.replaceChildren(...(work.length ? busy(work[0]) : newest ? told(newest) : []));
        bar.hidden = !bar.children.length;
        if (newest && known !== newest.run) refreshCards(); // also on a page that is new: the webui keeps the cards of its start
        known = newest?.run || "";
    }

    const busy = (run) => [
        make("span", `${run} is training: pictures are slow meanwhile.`),
        toRun(run),
    ];

    const toRun = (run) => make("button", "Show", () => show(`view=runs&run=${encodeURIComponent(run)}`));

    const show = (query) => {
        gradioApp().querySelector("iframe[title=RLR]").src = `${gradioApp().querySelector("#rlr_bar").dataset.root}/?${query}`;
    };

    function told(lora) {
        if (lora.problem) return [make("span", `The LoRA of ${lora.run} is not in the webui's folder: ${lora.problem}`), toRun(lora.run)];
        return [
            make("span", "New LoRA: "), make("code", lora.prompt),
            make("button", "Copy", () => navigator.clipboard?.writeText(lora.prompt)),
            make("button", "Into the txt2img prompt", () => intoPrompt(lora.prompt)),
            ...(lora.note ? [make("span", lora.note)] : []),
        ];
    }

    function intoPrompt(text) {
        const box = gradioApp().querySelector("#txt2img_prompt textarea");
        box.value = box.value.includes(text) ? box.value : [box.value.trim(), text].filter(Boolean).join(" ");
        updateInput(box);
        switch_to_txt2img();
    }

    // the host's own button draws the cards of LoRAs anew
    const refreshCards = () => ["txt2img", "img2img"].forEach((tab) => gradioApp().querySelector(`#${tab}_lora_extra_refresh`)?.click());

    // [the webui's last button of its kind, where it keeps the text of the picture that is shown]
    const PICTURES = [
        ...["txt2img", "img2img"].map((tab) => [`#${tab}_send_to_extras`, `#html_info_${tab}`]),
        ["#tab_pnginfo #extras_tab", "#pnginfo_generation_info textarea"],
    ];

    function addButton([neighbour, source]) {
        const other = gradioApp().querySelector(neighbour), words = "Send this picture's prompt, negative prompt and size to RLR.";
        if (!other || other.parentElement.querySelector(".rlr-send") || !gradioApp().querySelector("#rlr_bar")) return; // the tab may be hidden
        const button = make("button", other.textContent.includes("Send to") ? "Send to RLR" : "RLR", () => send(gradioApp().querySelector(source)));
        other.after(Object.assign(button, { className: `${other.className} rlr-send`, title: words, type: "button" }));
    }

    function send(source) {
        const text = source?.value ?? source?.textContent ?? "";
        show(`view=train&picture=${encodeURIComponent(text.trim())}`);
        const tabs = gradioApp().querySelectorAll("#tabs button");
        [...tabs].find((tab) => tab.textContent.trim() === "RLR" && !tab.matches(".rlr-send"))?.click();
    }

    onUiLoaded(() => PICTURES.forEach(addButton));
    onUiLoaded(() => setInterval(() => look().catch(() => {}), PERIOD));
})();
