"""What the tab adds to a page that is opened, of which it is one tab among many, beside thousands of cards."""

from __future__ import annotations

from typing import Any

import pytest

CARDS = """(count) => {
    const card = (name) => `<div class="card" data-name="${name}"><div class="button-row"></div><span>${name}</span></div>`;
    const cards = Array.from({length: count}, (_, number) => card(`style-${number}`)).join("");
    const tab = "<div id='tabs'><div class='tab-nav'><button onclick='window.wentToTab = true'>LoRA-X</button></div></div>";
    document.body.insertAdjacentHTML("beforeend", `${tab}<div id="txt2img_lora_cards">${cards}</div>`);
}"""
PROMPT = """(prompt) => {
    document.body.insertAdjacentHTML("beforeend", "<div id='txt2img_prompt'><textarea></textarea></div>");
    document.querySelector("#txt2img_prompt textarea").value = prompt;
    window.switch_to_txt2img = () => {};
}"""
FIELD = "document.querySelector('#lorax_card').querySelector('textarea, input')"


def test_the_page_waits_for_no_large_script_and_no_long_list_of_endpoints(page: Any) -> None:
    sizes = page.evaluate("performance.getEntriesByType('resource').map((one) => [one.decodedBodySize, one.name])")
    assert max(size for size, name in sizes if ".js" in name) < 1_000_000, sorted(sizes)[-5:]
    endpoints = page.evaluate("fetch('info').then((answer) => answer.json())")
    assert endpoints == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_the_card_that_the_pointer_is_on_has_one_button_which_sends_it_to_the_tab(page: Any) -> None:
    page.evaluate(CARDS, 2000)
    page.evaluate(f"{FIELD}.addEventListener('input', ({{target}}) => window.sent = target.value)")
    for name in ("style-1", "style-0", "style-1"):
        page.hover(f".card[data-name='{name}'] span")
    assert page.locator(".lorax-card-button").count() == 2
    page.click(".card[data-name='style-1'] .lorax-card-button")
    assert page.evaluate("[window.sent, window.wentToTab]") == ["style-1", True]


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("", "<lora:style-pruned:1> ink"),
        ("a cat <lora:style:0.7:te=0>, <lora:other:1>", "a cat, <lora:other:1> <lora:style-pruned:1> ink"),
        ("<lora:style-pruned:1> ink, a cat", "<lora:style-pruned:1> ink, a cat"),
        ("a cat <lora:style-pruned:0.5>", "a cat <lora:style-pruned:1> ink"),
        ("a cat <lora:style-pruned:1>, sharp", "a cat, sharp <lora:style-pruned:1> ink"),
        ("a cat <lora:style:1> <lora:style-pruned:1> ink", "a cat <lora:style-pruned:1> ink"),
    ],
)
def test_what_is_sent_stands_in_place_of_its_original(page: Any, prompt: str, sent: str) -> None:
    page.evaluate(PROMPT, prompt)
    page.evaluate("lorax.send('<lora:style-pruned:1> ink', '', '<lora:style:1>')")
    assert page.input_value("#txt2img_prompt textarea") == sent
