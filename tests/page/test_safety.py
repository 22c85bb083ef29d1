"""What a model writes is shown, never run: no markup, no scripts, no requests to others."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Request, expect

from support.fake_api import FakeApi, Reply

ATTACKS = [
    "<script>window.attacked = 1</script>",
    "<img src=x onerror='window.attacked = 1'>",
    "<svg onload=window.attacked=1><iframe src='javascript:parent.attacked=1'></iframe>",
    "[click](javascript:window.attacked=1) [or](JaVaScRiPt:window.attacked=1) <javascript:window.attacked=1>",
    "[data](data:text/html,<script>window.attacked=1</script>) [vb](vbscript:x) [f](file:///etc/passwd)",
    "[t](java\tscript:window.attacked=1) [e](&#106;avascript:window.attacked=1) [s]( javascript:attacked=1)",
    "![pixel](http://127.0.0.1:1/pixel.png) ![x](https://example.org/x.png)",
    "```html\n<script>window.attacked = 1</script>\n```\n`<script>window.attacked = 1</script>`",
    "```\"><script>window.attacked=1</script>\nx\n```",
    "| <img src=x onerror=window.attacked=1> | b |\n|---|---|\n| <script>window.attacked=1</script> | x |",
    "[a](https://example.org/\" onclick=\"window.attacked=1)",
]  # fmt: skip


@pytest.fixture
def outgoing(page: Page, api: FakeApi) -> list[str]:
    """Addresses of other servers that the page asked."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((api.url, "blob:")):
            asked.append(request.url)

    page.on("request", note)
    return asked


def test_nothing_in_a_reply_runs(page: Page, api: FakeApi, outgoing: list[str]) -> None:
    api.replies.append(Reply(pieces=["\n\n".join(ATTACKS)]))
    page.get_by_label("Message", exact=True).fill("<img src=x onerror=window.attacked=1>")
    page.get_by_label("Message", exact=True).press("Enter")
    reply = page.get_by_role("article", name="Reply")
    expect(reply).to_contain_text("1 token")
    expect(reply).to_contain_text("<script>window.attacked = 1</script>")
    assert reply.locator("img, iframe, script, svg:not(.icon), [onerror], [onload], [onclick]").count() == 0
    links = reply.locator("a").evaluate_all("links => links.map(link => link.href)")
    assert links, "safe links stay links"
    assert all(link.startswith(("http:", "https:")) for link in links)
    for attribute, value in (("target", "_blank"), ("rel", "noopener noreferrer nofollow")):
        assert set(reply.locator("a").evaluate_all(f"links => links.map(l => l.{attribute})")) == {value}
    assert page.evaluate("() => window.attacked") is None
    assert outgoing == []


def test_titles_and_what_is_stored_are_text_too(page: Page, outgoing: list[str]) -> None:
    attack = "<img src=x onerror='window.attacked = 1'>"
    page.get_by_label("Message", exact=True).fill(attack)
    page.get_by_label("Message", exact=True).press("Enter")
    expect(page.locator("#list .choose")).to_have_text(attack)
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text(attack)
    assert page.locator("main img, nav img").count() == 0
    assert page.evaluate("() => window.attacked") is None
    assert outgoing == []


def test_the_policy_stops_what_slips_through(page: Page) -> None:
    expect(page.locator(".node")).to_have_count(3)
    blocked = page.evaluate(
        """async () => {
            await new Promise((resolve) => setTimeout(resolve));  // out of the debugger, which may do everything
            const tried = [];
            const attempt = (name, act) => { try { act(); tried.push(name) } catch {} };
            attempt("innerHTML", () => { document.body.innerHTML = "<b>x</b>" });
            attempt("eval", () => window.eval("1"));
            const script = document.createElement("script");
            attempt("text", () => { script.text = "window.attacked = 1" });
            document.body.append(script);
            return [tried, window.attacked ?? null];
        }"""
    )
    assert blocked == [[], None]


def test_the_page_asks_nobody_else(page: Page, outgoing: list[str]) -> None:
    page.reload()
    expect(page.locator(".node")).to_have_count(3)
    assert outgoing == []
