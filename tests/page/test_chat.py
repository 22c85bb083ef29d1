"""Chatting: what is sent, what is shown, and what the browser keeps."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from support.fake_api import FakeApi, Reply

LONG_REPLY = """Tensor parallelism cuts **every layer** across the nodes: each holds and computes only its part.

## How a layer is cut

1. Matrices that *produce* a span, `q`, `k`, `v`, `gate` and `up`, are cut by rows.
2. Matrices that *consume* it, `o` and `down`, are cut by columns:
   - each node then has a partial sum of the whole,
   - which is quantised, exchanged and added in rank order.

Two exchanges a layer are all that crosses the network:

```python
def feed_forward(x: Array, rank: Rank) -> Array:
    \"\"\"[T, D] in, [T, D] out; every rank computes its own columns.\"\"\"
    normed = rms_norm(x, eps=1e-5)
    hidden = silu(normed @ rank.gate) * (normed @ rank.up)  # [T, F_local]
    return x + all_reduce(hidden @ rank.down)
```

| matrix | cut by | each node has |
|---|---|---|
| `q`, `k`, `v` | rows | its own heads |
| `gate`, `up` | rows | its own columns of the FFN |
| `o`, `down` | columns | a partial sum |

> The slowest node sets the pace: give it a smaller share.

Ask me about `--shares`, or see [the architecture](https://example.org/architecture).
"""


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def replies(page: Page) -> Locator:
    return page.get_by_role("article", name="Reply")


def listed(page: Page) -> Locator:
    return page.locator("#list .choose")


def test_a_reply_streams(page: Page, api: FakeApi) -> None:
    reply = Reply(pieces=["Once ", "upon ", "**a time**"], n_before_gate=2)
    api.replies.append(reply)
    send(page, "Tell me a story")
    expect(replies(page)).to_contain_text("Once upon")
    expect(page.get_by_role("button", name="Stop the reply")).to_be_visible()
    reply.gate.set()
    expect(replies(page).locator("strong")).to_have_text("a time")
    expect(page.get_by_role("button", name="Stop the reply")).to_be_hidden()
    expect(replies(page)).to_contain_text("3 tokens")
    expect(replies(page)).to_contain_text("16 of 24 prompt tokens from the cache")
    assert api.requests == [
        {
            "messages": [{"role": "user", "content": "Tell me a story"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_stopping_ends_the_request(page: Page, api: FakeApi) -> None:
    reply = Reply(pieces=["One, ", "two, ", "never"], n_before_gate=2)
    api.replies.append(reply)
    send(page, "Count")
    expect(replies(page)).to_contain_text("One, two,")
    page.get_by_role("button", name="Stop the reply").click()
    assert reply.cut.wait(20)
    expect(replies(page)).to_contain_text("Stopped.")
    send(page, "Go on")
    expect(replies(page).nth(1)).to_contain_text("You said: Go on")
    assert [message["content"] for message in api.requests[1]["messages"]] == ["Count", "One, two, ", "Go on"]


def test_a_reload_keeps_everything(page: Page) -> None:
    send(page, "Remember **this**")
    expect(replies(page).locator("strong")).to_have_text("this")
    page.reload()
    expect(page.get_by_role("article", name="You")).to_contain_text("Remember **this**")
    expect(replies(page).locator("strong")).to_have_text("this")
    expect(listed(page)).to_have_text(["Remember **this**"])


def test_a_reply_cut_by_a_reload_keeps_what_came(page: Page, api: FakeApi) -> None:
    reply = Reply(pieces=["Half ", "whole"], n_before_gate=1)
    api.replies.append(reply)
    send(page, "Say it")
    expect(replies(page)).to_contain_text("Half")
    page.reload()
    assert reply.cut.wait(20)
    expect(replies(page)).to_contain_text("Half")
    expect(replies(page)).to_contain_text("Stopped.")


def test_regenerating_replaces_the_last_reply(page: Page, api: FakeApi) -> None:
    api.replies.extend([Reply(pieces=["apple"]), Reply(pieces=["pear"])])
    send(page, "Think of a word")
    expect(replies(page)).to_contain_text("apple")
    page.get_by_role("button", name="Regenerate the reply").click()
    expect(replies(page)).to_contain_text("pear")
    expect(replies(page)).not_to_contain_text("apple")
    assert api.requests[0] == api.requests[1]
    page.get_by_role("button", name="Undo").click()
    expect(replies(page)).to_contain_text("apple")


def test_editing_sends_anew_and_can_be_undone(page: Page, api: FakeApi) -> None:
    send(page, "one")
    expect(replies(page)).to_contain_text("You said: one")
    send(page, "two")
    expect(replies(page).nth(1)).to_contain_text("You said: two")
    page.get_by_role("article", name="You").first.hover()
    page.get_by_role("button", name="Edit your message").first.click()
    page.get_by_role("textbox", name="Edit your message").fill("three")
    page.get_by_role("textbox", name="Edit your message").press("Enter")
    expect(replies(page)).to_have_count(1)
    expect(replies(page)).to_contain_text("You said: three")
    assert [message["content"] for message in api.requests[-1]["messages"]] == ["three"]
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("article", name="You").locator(".said")).to_have_text(["one", "two"])


def test_a_reply_can_be_corrected(page: Page, api: FakeApi) -> None:
    api.replies.append(Reply(pieces=["The capital is Lyon"]))
    send(page, "Capital of France?")
    page.get_by_role("button", name="Edit the reply").click()
    page.get_by_role("textbox", name="Edit the reply").fill("The capital is Paris")
    page.get_by_role("button", name="Keep").click()
    expect(replies(page)).to_contain_text("Paris")
    send(page, "Sure?")
    expect(replies(page).nth(1)).to_contain_text("You said: Sure?")
    assert api.requests[-1]["messages"][1] == {"role": "assistant", "content": "The capital is Paris"}


def test_settings_are_sent_and_kept(page: Page, api: FakeApi) -> None:
    page.get_by_role("button", name="Settings of this conversation").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Top k").fill("40")
    page.get_by_label("Longest reply").fill("64")
    page.get_by_label("Stop at").fill("END\n\\n\\n")
    page.get_by_label("Also for new conversations").check()
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="New conversation").click()
    send(page, "Hello")
    expect(replies(page)).to_contain_text("You said: Hello")
    sent = api.requests[0]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {name: sent[name] for name in ("temperature", "top_k", "max_tokens", "stop")} == {
        "temperature": 0.3,
        "top_k": 40,
        "max_tokens": 64,
        "stop": ["END", "\n\n"],
    }
    assert "top_p" not in sent


def test_a_setting_out_of_range_is_told(page: Page) -> None:
    page.get_by_role("button", name="Settings of this conversation").click()
    page.get_by_label("Temperature").fill("5")
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_role("alert")).to_contain_text("Temperature")
    expect(page.get_by_role("dialog", name="Settings")).to_be_visible()


def test_several_conversations(page: Page) -> None:
    send(page, "About cats")
    expect(replies(page)).to_contain_text("cats")
    page.get_by_role("button", name="New conversation").click()
    expect(replies(page)).to_have_count(0)
    send(page, "About dogs")
    expect(listed(page)).to_have_text(["About dogs", "About cats"])
    listed(page).nth(1).click()
    expect(replies(page)).to_contain_text("cats")
    page.get_by_role("button", name="Rename About cats").click()
    page.get_by_role("textbox", name="Title").fill("Felines")
    page.get_by_role("textbox", name="Title").press("Enter")
    expect(listed(page)).to_have_text(["About dogs", "Felines"])
    page.get_by_role("button", name="Delete Felines").click()
    expect(listed(page)).to_have_text(["About dogs"])
    page.get_by_role("button", name="Undo").click()
    expect(replies(page)).to_contain_text("cats")
    page.reload()
    expect(listed(page)).to_have_text(["About dogs", "Felines"])


def test_a_reply_goes_on_while_another_conversation_is_shown(page: Page, api: FakeApi) -> None:
    reply = Reply(pieces=["slow ", "but done"], n_before_gate=1)
    api.replies.append(reply)
    send(page, "Take your time")
    expect(replies(page)).to_contain_text("slow")
    page.get_by_role("button", name="New conversation").click()
    send(page, "Meanwhile")
    expect(replies(page)).to_contain_text("You said: Meanwhile")
    reply.gate.set()
    listed(page).filter(has_text="Take your time").click()
    expect(replies(page)).to_contain_text("slow but done")


def test_export(page: Page, tmp_path: Path) -> None:
    send(page, "Export *me*")
    expect(replies(page)).to_contain_text("You said")
    for name, file in (("As Markdown", "export-me.md"), ("As JSON", "export-me.json")):
        page.locator("#export summary").click()
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        assert download.value.suggested_filename == file
        download.value.save_as(tmp_path / file)
    markdown = (tmp_path / "export-me.md").read_text()
    assert markdown == "# Export *me*\n\n## You\n\nExport *me*\n\n## dllama\n\nYou said: Export *me*\n"
    assert json.loads((tmp_path / "export-me.json").read_text())["messages"] == [
        {"role": "user", "content": "Export *me*"},
        {"role": "assistant", "content": "You said: Export *me*"},
    ]


def test_code_is_copied_as_it_is(page: Page, api: FakeApi) -> None:
    code = "def f(x):\n    return '<b>' + x  # & so on"
    api.replies.append(Reply(pieces=["Here:\n\n```python\n", code, "\n```\n"]))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    send(page, "Write code")
    expect(page.locator("pre .of-keyword")).to_have_text(["def", "return"])
    page.get_by_role("button", name="Copy code").click()
    expect(page.locator("#spoken")).to_contain_text("Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == code


def wait_for_the_end(page: Page) -> None:
    """Until the end of the conversation is in sight: the page sees to that with the next frame."""
    from_end = "box.scrollHeight - box.scrollTop - box.clientHeight"
    page.wait_for_function(
        f"() => {{ const box = document.getElementById('scroller'); return {from_end} < 2; }}"
    )


def test_a_long_reply(page: Page, api: FakeApi, screenshots: Path) -> None:
    """Everything that Markdown has, from its beginning; docs/page.png is this picture."""
    api.replies.append(Reply(pieces=[LONG_REPLY[at : at + 20] for at in range(0, len(LONG_REPLY), 20)]))
    send(page, "How is a layer cut, so that three computers can share it?")
    reply = replies(page)
    expect(reply).to_contain_text("tokens/s")
    expect(reply.get_by_role("heading", level=3)).to_have_text("How a layer is cut")
    expect(reply.get_by_role("table").get_by_role("row")).to_have_count(4)
    expect(reply.locator("ol > li")).to_have_count(2)
    expect(reply.locator("pre")).to_contain_text("return x + all_reduce(hidden @ rank.down)")
    scroller = page.locator("#scroller")
    wait_for_the_end(page)  # it followed the growing text
    scroller.evaluate("box => box.scrollTo(0, 0)")
    expect(page.get_by_role("button", name="Go to the end")).to_be_visible()
    page.screenshot(path=screenshots / "page.png")
    page.get_by_role("button", name="Go to the end").click()
    expect(page.get_by_role("button", name="Go to the end")).to_be_hidden()
    wait_for_the_end(page)


def test_thoughts_are_folded_and_not_sent_back(page: Page, api: FakeApi) -> None:
    api.replies.append(Reply(pieces=["<think>\nLet me see", "…\n</think>\n\n", "Four."]))
    send(page, "2 + 2?")
    expect(page.locator(".thoughts summary")).to_have_text("Thoughts")
    expect(page.get_by_text("Let me see")).to_be_hidden()
    send(page, "Sure?")
    expect(replies(page).nth(1)).to_contain_text("You said: Sure?")
    assert api.requests[1]["messages"][1]["content"] == "Four."


def test_thoughts_that_come_apart(page: Page, api: FakeApi) -> None:
    """As `reasoning_content`, where the server knows the model's way of thinking."""
    reply = Reply(thoughts=["Let me", " see"], pieces=["Four."], n_before_gate=0)
    api.replies.append(reply)
    send(page, "2 + 2?")
    expect(page.locator(".thoughts summary")).to_have_text("Thinking…")
    reply.gate.set()
    expect(page.locator(".thoughts summary")).to_have_text("Thoughts")
    expect(replies(page).locator("> .markdown")).to_have_text("Four.")
    page.locator(".thoughts summary").click()
    expect(page.locator(".thoughts .markdown")).to_have_text("Let me see")
    send(page, "Sure?")
    expect(replies(page).nth(1)).to_contain_text("You said: Sure?")
    assert api.requests[1]["messages"][1] == {"role": "assistant", "content": "Four."}


def test_a_long_prompt_shows_how_far_it_is(page: Page, api: FakeApi) -> None:
    reply = Reply(prompt=[(0, 7500), (512, 7500)], pieces=["At last"], n_before_gate=0)
    api.replies.append(reply)
    send(page, "A long story")
    bar = replies(page).get_by_role("progressbar", name="Prompt read")
    expect(bar).to_have_js_property("value", 512)
    expect(bar).to_have_js_property("max", 7500)
    expect(replies(page)).to_contain_text("Reading the prompt: 512 of 7,500 tokens")
    reply.gate.set()
    expect(replies(page)).to_contain_text("At last")
    expect(bar).to_have_count(0)


def test_the_answer_that_is_coming_is_in_sight(page: Page, api: FakeApi) -> None:
    """Whatever was looked at before, and however long the message is; until the person scrolls up."""
    api.replies.append(Reply(pieces=["A line.\n\n"] * 60))
    send(page, "Write much")
    expect(replies(page)).to_contain_text("tokens/s")
    scroller = page.locator("#scroller")
    scroller.evaluate("box => box.scrollTo(0, 0)")
    expect(page.get_by_role("button", name="Go to the end")).to_be_visible()
    reply = Reply(prompt=[(64, 640)], pieces=["Another line.\n\n"] * 60, n_before_gate=0)
    api.replies.append(reply)
    send(page, "A long message.\n" * 80)
    expect(page.get_by_role("progressbar")).to_be_in_viewport(ratio=1)
    reply.gate.set()
    expect(replies(page).last).to_contain_text("tokens/s")
    wait_for_the_end(page)


def test_a_long_message_on_a_phone_is_followed_by_its_answer_in_sight(page: Page, api: FakeApi) -> None:
    """The message box shrinks when it is sent: what that moves, nobody has scrolled."""
    page.set_viewport_size({"width": 390, "height": 780})
    api.replies.extend([Reply(pieces=["A line. " * 90]), Reply(pieces=["Yes"], n_before_gate=0)])
    send(page, "Write much")
    expect(replies(page)).to_contain_text("first after")
    page.get_by_label("Message", exact=True).fill("A long message. " * 300)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("img", name="Waiting for the reply")).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("button", name="Go to the end")).to_be_hidden()


def test_headings_differ_in_size_by_their_level(page: Page, api: FakeApi) -> None:
    api.replies.append(Reply(pieces=["".join(f"{'#' * level} Level {level}\n\n" for level in range(1, 7))]))
    send(page, "Headings")
    headings = replies(page).locator(".markdown").get_by_role("heading")
    expect(headings).to_have_count(6)
    looks = "list => list.map(it => [parseFloat(getComputedStyle(it).fontSize), getComputedStyle(it).color])"
    shown = headings.evaluate_all(looks)
    sizes = [size for size, _ in shown]
    assert sizes == sorted(sizes, reverse=True)
    assert len({tuple(look) for look in shown}) == 6
    assert sizes[0] > 1.1 * sizes[1] > 1.2 * sizes[2]


def test_markup_styles_and_differences_have_colours(page: Page, api: FakeApi) -> None:
    code = {
        "html": '<!-- no -->\n<a href="x > y">It\'s &amp; "so"</a>',
        "css": "a { color: #fff; margin: -1.5em } /* so */",
        "diff": "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\n same",
    }
    api.replies.append(Reply(pieces=[f"```{name}\n{text}\n```\n\n" for name, text in code.items()]))
    send(page, "Code")
    coloured = "list => list.map(it => [it.className.slice(3), it.textContent])"
    shown = replies(page).locator("pre")
    expect(shown).to_have_count(3)
    expect(shown).to_have_text(list(code.values()))
    assert shown.nth(0).locator("span").evaluate_all(coloured) == [
        ["comment", "<!-- no -->"],
        ["keyword", "<a"],
        ["string", '"x > y"'],
        ["keyword", ">"],
        ["number", "&amp;"],
        ["keyword", "</a"],
        ["keyword", ">"],
    ]
    assert shown.nth(1).locator("span").evaluate_all(coloured) == [
        ["keyword", "color"],
        ["number", "#fff"],
        ["keyword", "margin"],
        ["number", "-1.5em"],
        ["comment", "/* so */"],
    ]
    assert shown.nth(2).locator("span").evaluate_all(coloured) == [
        ["comment", "--- a/x"],
        ["comment", "+++ b/x"],
        ["keyword", "@@ -1 +1 @@"],
        ["deleted", "-old"],
        ["inserted", "+new"],
    ]


def test_empty_settings_show_what_the_server_does(page: Page, api: FakeApi) -> None:
    page.get_by_role("button", name="Settings of this conversation").click()
    for label, shown in (
        ("Temperature", "0.6"),
        ("Top p", "0.95"),
        ("Top k", "20"),
        ("Min p", "off"),
        ("Longest reply", "no limit"),
        ("Seed", "random"),
        ("Repetition penalty", "off"),
    ):
        expect(page.get_by_label(label)).to_have_attribute("placeholder", shown)
        expect(page.get_by_label(label)).to_have_value("")
    page.get_by_role("button", name="Keep").click()
    send(page, "Hello")
    expect(replies(page)).to_contain_text("tokens/s")
    assert "temperature" not in api.requests[0]
