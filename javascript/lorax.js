// The tab's code in the browser: it watches jobs and verdicts, copies, sends to txt2img, and adds the button to LoRA cards.
window.lorax = (() => {
    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const find = (selector) => root().querySelector(selector);

    const isSeen = (part) => part.getClientRects().length > 0;
    const isOurs = (tab) => tab.textContent.trim() === "LoRA-X";

    function put(area, text) {
        area.value = text;
        area.dispatchEvent(new Event("input", {bubbles: true}));
    }

    // Sends the number of this browser's page along, the second value of each event.
    function named(values) {
        return [values[0], window.loraxPage, ...values.slice(2)];
    }

    // Requests new notes. Gradio 3 drops events while a handler is running, so the request is repeated, at growing intervals, until it
    // is answered; each time with another number, since only a changed value is an event. Nothing is asked as long as another tab is
    // in view: ours asks when it comes into view.
    let told = 0;
    let last = 0;
    const answered = () => Number(find("#lorax_notes [data-answers]")?.dataset.answers ?? 0);
    function ask() {
        if (!isOpen || !isSeen(find("#lorax"))) {
            return [];
        }
        const [question, field] = [last = told + 1, find("#lorax_question textarea, #lorax_question input")];
        const tell = (wait) => {
            if (field && question === last && answered() < question && wait < 30000) {
                put(field, ++told);
                setTimeout(() => tell(1.5 * wait), wait);
            }
        };
        tell(300);
        return [];
    }

    // Asks for the first time. Before that, what was chosen before may still be on its way, and would replace a choice of meanwhile.
    let isOpen = false;
    function opened() {
        isOpen = true;
        return ask();
    }

    // Hides what was said of another choice until the question about the new one is answered.
    function stale() {
        const [began, tab] = [Date.now(), find("#lorax")];
        tab.dataset.stale = "";
        since = began;
        const waiting = setInterval(() => {
            const passed = Date.now() - began;
            if ((passed > 200 && answered() >= last) || passed > 30000) { // by then it is asked
                clearInterval(waiting);
                delete tab.dataset.stale;
            }
        }, 50);
        return [];
    }

    // Asks how the job goes, if there is one. What is known of ended jobs goes along, so that only news is shown anew.
    let beats = 0;
    function poll() {
        const field = find("#lorax_poll textarea, #lorax_poll input");
        if (field && isOpen) {
            put(field, `${++beats} ${find("#lorax_progress [data-seen]")?.dataset.seen ?? ""}`);
        }
    }

    // Each answer has gradio draw the whole page anew, which in the WebUI takes a third of a second of a processor. So what takes
    // longer is asked for less often: a job by how long it will still take. If nobody sees it, it is rarely asked for.
    let since = 0;
    let asked = 0;
    function isTime(isRead) {
        const [now, left] = [Date.now(), find("#lorax_progress [data-left]")?.dataset.left ?? 12];
        const pause = now - since < 10000 ? 900 : Math.min(6000, Math.max(900, 250 * left));
        if (now - asked < (document.hidden || !isRead ? 15000 : pause)) {
            return false;
        }
        asked = now;
        return true;
    }

    function watch() {
        const awaited = [...root().querySelectorAll("#lorax_verdict [data-pending], #lorax_progress [data-running]")];
        const read = [...root().querySelectorAll("#lorax [data-look]")].filter(isSeen);
        if (!awaited.length && !read.length) {
            since = Date.now();
        } else if (!isTime(awaited.some(isSeen) || read.length)) {
            return;
        }
        const seen = find("#lorax_progress [data-seen]");
        if (seen?.hasAttribute("data-running")) {
            lastSeen ??= seen.dataset.seen; // of a page that was opened meanwhile, to which the end is news
            poll();
            tellOthers("running");
        } else if (seen && seen.dataset.seen !== lastSeen) {
            const isNews = lastSeen !== undefined; // and not what a page shows that was just opened
            lastSeen = seen.dataset.seen;
            if (isNews) {
                tellOthers(lastSeen);
                ended();
            }
        }
        if (find("#lorax_verdict [data-pending]")) {
            ask();
        }
        // What nobody looks at is not read: only what is in view asks for it, and how far the reading is.
        for (const {dataset} of read) {
            const field = find(`#lorax_${dataset.look} textarea, #lorax_${dataset.look} input`);
            if (field) {
                put(field, `${++looks}`);
            }
        }
    }
    let looks = 0;
    let lastSeen;
    setInterval(watch, 1000);

    // The page in another tab of this browser has the same job.
    function tellOthers(state) {
        try {
            localStorage.lorax_state = state;
        } catch { /* the browser keeps nothing */ }
    }
    window.addEventListener("storage", (event) => event.key === "lorax_state" && poll());

    function copy(text) {
        const button = find("#lorax_copy");
        button.dataset.copied = "";
        setTimeout(() => delete button.dataset.copied, 2000);
        if (navigator.clipboard) {
            navigator.clipboard.writeText(text);
            return [];
        }
        const area = document.createElement("textarea"); // without https, pages cannot use navigator.clipboard
        area.value = text;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
        return [];
    }

    // Puts the tag into the prompt instead of its original's, which would act as well, and has the WebUI load the checkpoint for
    // which the LoRA is.
    const tags = /\s*<lora:([^:>]+)[^>]*>/g;
    function send(text, target, originals) {
        const prompt = find("#txt2img_prompt textarea");
        if (text) {
            const names = [...`${text} ${originals}`.matchAll(tags)].map(([, name]) => name);
            const isThere = prompt.value.includes(text);
            const others = isThere ? prompt.value.replace(text, "") : prompt.value;
            const left = others.replace(tags, (tag, name) => (names.includes(name) ? "" : tag));
            if (!isThere || left !== others) {
                put(prompt, `${left.trim()} ${text}`.trim());
            }
        }
        if (target && typeof selectCheckpoint === "function") { // without effect if it is loaded, which the WebUI knows best
            selectCheckpoint(target);
        }
        switch_to_txt2img();
        find("#txt2img_extra_tabs > .tab-nav button")?.click(); // Generation: the picture is drawn there, and not among the cards
        return [text, target, originals];
    }

    // Refreshes one tab after the other: while the WebUI reads its list of LoRAs again, another tab's refresh would miss cards.
    function refreshCards([tab, ...others]) {
        const button = tab && find(`#${tab}_lora_extra_refresh_internal`);
        if (!button) {
            return;
        }
        const [before, began] = [find(`#${tab}_lora_cards`), Date.now()];
        button.dispatchEvent(new Event("click"));
        const waiting = setInterval(() => {
            if (find(`#${tab}_lora_cards`) !== before || Date.now() - began > 10000) { // the cards are not replaced if none has changed
                clearInterval(waiting);
                refreshCards(others);
            }
        }, 100);
    }

    // Shows new cards, previews and weights.
    function refresh() {
        refreshCards(["txt2img", "img2img"]);
        return [];
    }

    // Shows the new card after a transfer, and has an empty comparison draw as txt2img does.
    function ended() {
        if (find("#lorax_prompt textarea")?.value === "" && find("#txt2img_prompt textarea")) {
            find("#lorax_from_txt2img").click();
        }
        return refresh();
    }

    // Returns what txt2img draws with, in the order of TXT2IMG in lorax/ui/comparing.py. What it lacks stays as it is in Compare.
    const number = "input[type=number]";
    const one = "input:checked, input:not([type=radio])"; // the WebUI's settings make a list or buttons of the samplers
    const fields = [
        ["prompt", "textarea"], ["neg_prompt", "textarea"], ["seed", "input"], ["steps", number], ["sampling", one], ["scheduler", one],
        ["cfg_scale", number], ["width", number], ["height", number],
    ];
    function fromTxt2img(values) {
        return fields.map(([name, part], place) => {
            const given = find(`#txt2img_${name}`)?.querySelector(part)?.value;
            return given === undefined ? values[place] : typeof values[place] === "number" ? Number(given) : given;
        });
    }

    function sendCard(event) {
        event.stopPropagation();
        put(find("#lorax_card textarea, #lorax_card input"), event.target.closest(".card").dataset.name);
        [...root().querySelectorAll("#tabs > .tab-nav button")].find(isOurs).click();
    }

    // A card gets its button once the pointer is on it: before that, the WebUI does not show it, and there may be thousands.
    document.addEventListener("mouseover", ({target}) => {
        const row = target.closest("#txt2img_lora_cards .card, #img2img_lora_cards .card")?.querySelector(".button-row");
        if (row && !row.querySelector(".lorax-card-button")) {
            const button = document.createElement("div");
            button.className = "card-button lorax-card-button";
            button.title = "Move this LoRA to another checkpoint with LoRA-X";
            button.addEventListener("click", sendCard);
            row.append(button);
        }
    });

    // A stop takes a step of the work, however long all of it would take.
    document.addEventListener("click", ({target}) => {
        if (target.closest("#lorax_interrupt")) {
            since = Date.now();
        }
    });

    if (typeof onUiTabChange === "function") {
        onUiTabChange(() => isOurs(get_uiCurrentTab()) && look());
        onOptionsChanged(ask); // another checkpoint may be loaded now
    }
    // Keeps the names of the ticked LoRAs of the library, which the table may show again.
    document.addEventListener("change", ({target}) => {
        const field = find("#lorax_library_chosen textarea, #lorax_library_chosen input");
        if (field && target.matches("#lorax_library_table [data-lora]")) {
            const others = JSON.parse(field.value || "[]").filter((name) => name !== target.dataset.lora);
            put(field, JSON.stringify(target.checked ? [...others, target.dataset.lora] : others));
        }
    });
    document.addEventListener("visibilitychange", () => document.hidden || look());

    function look() {
        since = Date.now();
        ask();
        poll();
    }

    // Shows the progress and the result, which are far above the library.
    function show() {
        find("#lorax_actions, #lorax_progress")?.parentElement.scrollIntoView({block: "start"});
        return [];
    }
    return {named, ask, opened, stale, show, copy, send, refresh, fromTxt2img};
})();
