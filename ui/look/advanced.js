// Advanced: a mark at each setting that is not its default.
(() => {
    "use strict";
    setInterval(() => {
        if (document.body.dataset.page !== "train") return;
        for (const box of document.querySelectorAll(".advanced .setting")) {
            const value = box.querySelector("input, textarea")?.value ?? "";
            box.classList.toggle("changed", value !== "" && !value.startsWith("default: "));
        }
    }, 500);
})();
