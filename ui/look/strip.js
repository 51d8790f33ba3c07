// The strip of stages beside the prompts: asks how far it is until it is there.
(() => {
    "use strict";
    const busy = new WeakSet();
    async function follow(box) {
        busy.add(box);
        const job = box.dataset.strip;
        while (box.isConnected) {
            const told = await window.rlr.ask(`rlr/strip/${job}`).catch((error) => ({ state: "failed", error: error.message }));
            if (told.state === "finished") {
                const picture = Object.assign(new Image(), { src: `rlr/job/strip/${job}/strip.png?side=2048`, tabIndex: 0,
                    alt: "the picture as it is predicted along the chain, from noise to the end, with lines where stages meet" });
                box.replaceChildren(picture);
                return;
            }
            if (told.state === "failed" || told.state === "died") { box.textContent = told.error; box.classList.add("notice", "red"); return; }
            await new Promise((later) => setTimeout(later, 700));
        }
    }
    setInterval(() => { for (const box of document.querySelectorAll("[data-strip]")) if (!busy.has(box)) follow(box); }, 300);
})();
