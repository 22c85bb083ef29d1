"""For everyone: by keyboard alone, with a screen reader, on a phone, in both themes."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from support.fake_api import FakeApi, Reply, cluster_view, node

pytestmark = pytest.mark.slow

RICH = """Some **bold** and `code`, and a [link](https://example.org).

## A heading

1. one
   - [x] two
   - [ ] three

```diff
-old
+new
```

```html
<a href="x">&amp;</a>
```

```python
def f():  # a comment
    return "a very long line " * 1000 + "that does not fit on the screen of any phone that there is, or was"
```

| a column | another column | a third column | a fourth column | a fifth column |
|---|--:|---|---|---|
| 1 | 2 | 3 | 4 | averyveryverylongwordwithoutanyplacetobreakitatall |

> A quote with averyveryverylongwordwithoutanyplacetobreakitatallaveryveryverylongwordwithoutanyplacetobreakit.
"""


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def check_rules(page: Page, where: str) -> None:
    """axe-core's rules for WCAG 2.2 A and AA, contrast among them, and best practices."""
    violations = Axe().run(page).response["violations"]
    told = [
        (rule["id"], rule["help"], [node["html"] + str(node["any"][:1]) for node in rule["nodes"]])
        for rule in violations
    ]
    assert told == [], where


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, api: FakeApi, theme: str, screenshots: Path) -> None:
    context = browser.new_context(
        viewport={"width": 1440, "height": 1500},
        color_scheme=theme,
        reduced_motion="reduce",
        bypass_csp=True,
    )
    page = context.new_page()
    page.goto(api.url)
    expect(page.locator(".node")).to_have_count(3)
    check_rules(page, "empty")
    api.replies.extend(
        [
            Reply(pieces=[RICH]),
            Reply(status=400, message="too long", code="context_length_exceeded"),
            Reply(prompt=[(16, 640)], pieces=["x", "y"], n_before_gate=0),
        ]
    )
    for text in ("Show me everything", "Too much", "Wait"):
        send(page, text)
        expect(page.get_by_role("article", name="You").last).to_contain_text(text)
    expect(page.get_by_role("progressbar")).to_be_visible()
    check_rules(page, "messages")
    page.screenshot(path=screenshots / f"messages-{theme}.png")
    page.get_by_role("button", name="Stop the reply").click()
    page.get_by_role("button", name="Settings of this conversation").click()
    check_rules(page, "settings")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Use key").click()
    expect(page.get_by_text("Enter a key.")).to_be_visible()
    check_rules(page, "key")
    page.keyboard.press("Escape")
    lost = node(2, 40, 0, 4) | {"lost_since": 1.7e9, "lost_reason": "no sign for 10 s"}
    api.cluster = cluster_view([node(0, 28, 12, 4), node(1, 27, 13, 4), lost]) | {"status": "recovering"}
    expect(page.locator(".node.lost")).to_be_visible()
    check_rules(page, "lost")
    context.close()


@pytest.mark.parametrize("width", [320, 390, 768, 1024])
def test_no_width_scrolls_sideways(browser: Browser, api: FakeApi, width: int, screenshots: Path) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        is_mobile=width < 500,
        has_touch=width < 500,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(api.url)
    api.replies.append(Reply(pieces=[RICH]))
    page.get_by_label("Message", exact=True).fill("w" * 200)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("1 token")
    is_too_wide = "() => [document.documentElement.scrollWidth > innerWidth, innerWidth]"
    assert page.evaluate(is_too_wide) == [False, width]
    scroller = page.locator("#scroller")
    assert scroller.evaluate("box => box.scrollWidth <= box.clientWidth")
    for name in ("Cluster: 3 nodes", "Conversations") if width < 760 else ("Cluster: 3 nodes",):
        page.get_by_role("button", name=name).click()
        assert page.evaluate(is_too_wide) == [False, width]
        page.screenshot(path=screenshots / f"{name.split(':')[0].lower()}-{width}.png")
        page.keyboard.press("Escape")
    context.close()


def test_a_phone_reaches_everything(browser: Browser, api: FakeApi) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(api.url)
    page.get_by_label("Message", exact=True).fill("one")
    page.get_by_label("Message", exact=True).press("Enter")  # a screen keyboard's Enter begins a line
    expect(page.get_by_label("Message", exact=True)).to_have_value("one\n")
    page.get_by_role("button", name="Send").tap()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("You said: one")
    page.get_by_role("button", name="Cluster: 3 nodes").tap()
    expect(page.get_by_role("heading", name="Cluster")).to_be_visible()
    page.get_by_role("button", name="Close the cluster").tap()
    expect(page.get_by_role("heading", name="Cluster")).to_be_hidden()
    page.get_by_role("button", name="Conversations", exact=True).tap()
    page.get_by_role("button", name="New conversation").tap()
    expect(page.get_by_text("What shall we talk about?")).to_be_visible()
    context.close()


def test_the_keyboard_is_enough(page: Page, api: FakeApi) -> None:
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    reply = Reply(pieces=["One. ", "Two."], n_before_gate=1)
    api.replies.append(reply)
    page.keyboard.type("Hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("there")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article", name="Reply")).to_contain_text("One.")
    page.keyboard.press("Escape")
    assert reply.cut.wait(20)
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("textbox", name="Edit your message")).to_be_focused()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("Hi")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article", name="Reply")).to_contain_text("You said: Hi")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    tab_to(page, "Settings of this conversation", backwards=True)
    page.keyboard.press("Enter")
    expect(page.get_by_label("System prompt")).to_be_focused()
    page.keyboard.type("Be kind.")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Settings of this conversation")).to_be_focused()
    tab_to(page, "Rename Hi", backwards=True)
    page.keyboard.press("Enter")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("Greetings")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Greetings")
    tab_to(page, "Delete Greetings")
    page.keyboard.press("Enter")
    expect(page.get_by_text("What shall we talk about?")).to_be_visible()


def tab_to(page: Page, name: str, *, backwards: bool = False) -> None:
    """Presses Tab until the button `name` has the focus, and checks that one sees it on the way."""
    wanted = page.get_by_role("button", name=name)
    for _ in range(40):
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
        focused = page.locator(":focus")
        if focused.count():
            style = focused.evaluate("e => [getComputedStyle(e).outlineStyle, getComputedStyle(e).boxShadow]")
            assert style != ["none", "none"] or focused.evaluate(
                "e => e.id === 'prompt' || e.type === 'radio'"
            )
        if wanted.count() and wanted.evaluate("e => e === document.activeElement"):
            return
    raise AssertionError(f"Tab does not reach {name}")


def test_a_reply_is_read_out_sentence_by_sentence(page: Page, api: FakeApi) -> None:
    reply = Reply(pieces=["First sentence. Sec", "ond **sentence**. Rest", " of it"], n_before_gate=1)
    api.replies.append(reply)
    spoken = page.locator("#spoken")
    expect(spoken).to_have_attribute("aria-live", "polite")
    send(page, "Read to me")
    expect(spoken.locator("p")).to_have_text(["First sentence."])
    reply.gate.set()
    expect(spoken.locator("p").last).to_have_text("The reply is complete.")
    said = " ".join(spoken.locator("p").all_inner_texts()).split()
    assert " ".join(said) == "First sentence. Second sentence . Rest of it The reply is complete."


def test_landmarks_and_names(page: Page) -> None:
    for role, name in (
        ("navigation", "Conversations"),
        ("complementary", "Cluster"),
        ("form", "Your message"),
    ):
        expect(page.get_by_role(role, name=name)).to_have_count(1)
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    expect(page.get_by_role("link", name="Skip to the message box")).to_have_count(1)


def test_the_theme_can_be_chosen(page: Page) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_label("Theme").select_option("dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_without_motion_nothing_moves(page: Page, api: FakeApi) -> None:
    reply = Reply(pieces=["a"], n_before_gate=0)
    api.replies.append(reply)
    send(page, "Wait")
    dots = page.locator(".waiting span").first
    expect(dots).to_be_visible()
    assert float(dots.evaluate("e => getComputedStyle(e).animationDuration").rstrip("s")) <= 1e-4
    reply.gate.set()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("a")
