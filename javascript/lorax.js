// The tab's part in the browser: the host's progress bar, copy, send to txt2img, and the button on LoRA cards.
window.lorax = (() => {
    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const find = (selector) => root().querySelector(selector);

    const isOurs = (tab) => tab.textContent.trim() === "LoRA-X";

    function put(area, text) {
        area.value = text;
        area.dispatchEvent(new Event("input", {bubbles: true}));
    }

    // Shows the WebUI's progress bar above the status line. The first value is the id of its task.
    function submit(values) {
        if (typeof requestProgress !== "function") {
            return values;
        }
        const id = randomId();
        requestProgress(id, find("#lorax_status"), null, () => {});
        return [id, ...values.slice(1)];
    }

    // Has the notes written anew. Gradio 3 drops what it is told while it still works on the last, so it is told until it has answered,
    // more and more seldom; each time with another number, since it hears only of a value that is new.
    let told = 0;
    let last = 0;
    function ask() {
        const [question, field] = [last = told + 1, find("#lorax_question textarea, #lorax_question input")];
        const tell = (wait) => {
            const answered = Number(find("#lorax_notes [data-answers]")?.dataset.answers ?? 0);
            if (field && question === last && answered < question && wait < 30000) {
                put(field, ++told);
                setTimeout(() => tell(1.5 * wait), wait);
            }
        };
        tell(300);
        return [];
    }

    function copy(text) {
        if (navigator.clipboard) {
            navigator.clipboard.writeText(text);
            return [];
        }
        const area = document.createElement("textarea"); // pages that are not served by https have no clipboard
        area.value = text;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
        return [];
    }

    function send(text) {
        const prompt = find("#txt2img_prompt textarea");
        if (!prompt.value.includes(text)) {
            put(prompt, prompt.value.trim() ? `${prompt.value.trim()} ${text}` : text);
        }
        switch_to_txt2img();
        return [];
    }

    // One after the other: the host empties its list of LoRAs to read it anew, and the other tab would miss cards meanwhile.
    function refreshCards([tab, ...others]) {
        const button = tab && find(`#${tab}_lora_extra_refresh_internal`);
        if (!button) {
            return;
        }
        const [before, began] = [find(`#${tab}_lora_cards`), Date.now()];
        button.dispatchEvent(new Event("click"));
        const waiting = setInterval(() => {
            if (find(`#${tab}_lora_cards`) !== before || Date.now() - began > 10000) { // no answer where no card has changed
                clearInterval(waiting);
                refreshCards(others);
            }
        }, 100);
    }

    // After a transfer: the new card appears, and a comparison begins with the prompt that is at hand.
    function transferred() {
        const [prompt, given] = [find("#lorax_prompt textarea"), find("#txt2img_prompt textarea")];
        if (prompt && !prompt.value && given) {
            put(prompt, given.value);
        }
        refreshCards(["txt2img", "img2img"]);
        return [];
    }

    function sendCard(event) {
        event.stopPropagation();
        put(find("#lorax_card textarea, #lorax_card input"), event.target.closest(".card").dataset.name);
        [...root().querySelectorAll("#tabs > .tab-nav button")].find(isOurs).click();
    }

    function addCardButtons() {
        for (const row of root().querySelectorAll("#txt2img_lora_cards .button-row, #img2img_lora_cards .button-row")) {
            if (!row.querySelector(".lorax-card-button")) {
                const button = document.createElement("div");
                button.className = "card-button lorax-card-button";
                button.title = "Move this LoRA to another checkpoint with LoRA-X";
                button.addEventListener("click", sendCard);
                row.append(button);
            }
        }
    }

    if (typeof onAfterUiUpdate === "function") {
        onAfterUiUpdate(addCardButtons);
        onUiTabChange(() => isOurs(get_uiCurrentTab()) && ask()); // another checkpoint may be loaded now
    }
    return {submit, ask, copy, send, transferred};
})();
