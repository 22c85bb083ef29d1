"""What goes wrong, and how the page says so: in words, with a way out."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from support.fake_api import FakeApi, Reply


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def test_a_key_is_asked_for_and_kept_for_the_tab(page: Page, api: FakeApi) -> None:
    expect(page.locator(".node")).to_have_count(3)
    api.api_key = "open sesame"
    expect(page.get_by_role("button", name="Enter the key")).to_be_visible()
    send(page, "Hello")
    dialog = page.get_by_role("dialog", name="API key")
    expect(dialog).to_contain_text("This server needs an API key.")
    page.get_by_label("Key", exact=True).fill("open barley")
    page.get_by_role("button", name="Use key").click()
    expect(page.get_by_label("Key", exact=True)).to_have_value("")  # it was wrong, and is asked for again
    page.get_by_label("Key", exact=True).fill("open sesame")
    page.get_by_role("button", name="Use key").click()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("You said: Hello")
    expect(page.get_by_role("button", name="Enter the key")).to_be_hidden()
    stored = "() => [sessionStorage.getItem('dllama.key'), localStorage.getItem('dllama.key')]"
    assert page.evaluate(stored) == ["open sesame", None]
    page.reload()
    send(page, "Still me")
    expect(page.get_by_role("article", name="Reply").last).to_contain_text("You said: Still me")


def test_what_is_wrong_with_a_key_is_said_in_the_dialog(page: Page, api: FakeApi) -> None:
    api.api_key = "sesame"
    page.get_by_role("button", name="Enter the key").click()
    dialog, use = page.get_by_role("dialog", name="API key"), page.get_by_role("button", name="Use key")
    alert = dialog.locator("[data-wrong]")
    expect(alert).to_have_text("")
    use.click()
    expect(alert).to_have_text("Enter a key.")
    page.get_by_label("Key", exact=True).fill("   ")
    page.get_by_label("Key", exact=True).press("Enter")
    expect(alert).to_have_text("Enter a key.")
    page.get_by_label("Key", exact=True).fill("barley")
    use.click()
    expect(alert).to_have_text("The API key is not one of this server's.")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    assert page.evaluate("() => sessionStorage.getItem('dllama.key')") is None
    page.get_by_label("Key", exact=True).fill("sesame")
    use.click()
    expect(dialog).to_be_hidden()
    expect(page.locator(".node")).to_have_count(3)
    page.get_by_role("button", name="API key").click()
    expect(alert).to_have_text("")


def test_a_notice_covers_nothing(page: Page, api: FakeApi) -> None:
    """Neither the card that says what went wrong, nor the box to write in; also on a phone."""
    api.replies.extend([Reply(pieces=["Y", "es"]), Reply(status=500, message="it broke")])
    send(page, "One")
    expect(page.get_by_role("article", name="Reply")).to_contain_text("tokens/s")
    page.get_by_role("button", name="Regenerate the reply").click()
    expect(page.get_by_role("alert")).to_contain_text("It broke.")
    notice = page.locator(".notice")
    expect(notice).to_contain_text("The reply is written anew.")
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 700})
        expect(page.get_by_role("button", name="Try again")).to_be_in_viewport(ratio=1)
        box = boxes(page, ".notice")
        for other in (".problem", "#composer", ".bar-top"):
            assert are_apart(box, boxes(page, other)), (width, other)
    notice.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("Yes")


def boxes(page: Page, selector: str) -> dict[str, float]:
    return dict(page.locator(selector).evaluate("it => it.getBoundingClientRect().toJSON()"))


def are_apart(one: dict[str, float], other: dict[str, float]) -> bool:
    return (
        one["bottom"] <= other["top"]
        or other["bottom"] <= one["top"]
        or one["right"] <= other["left"]
        or other["right"] <= one["left"]
    )


def test_what_was_deleted_in_the_drawer_can_be_brought_back_there(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 700})
    send(page, "About cats")
    expect(page.get_by_role("article", name="Reply")).to_contain_text("tokens/s")
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Undo").click()
    expect(
        page.get_by_role("navigation").get_by_role("button", name="About cats", exact=True)
    ).to_be_visible()


def test_a_key_is_remembered_by_choice(page: Page, api: FakeApi) -> None:
    api.api_key = "open sesame"
    page.get_by_role("button", name="API key").click()
    page.get_by_label("Key", exact=True).fill("open sesame")
    page.get_by_label("Remember it on this computer").check()
    page.get_by_role("button", name="Use key").click()
    expect(page.get_by_role("dialog", name="API key")).to_be_hidden()  # the key was tried
    stored = "() => [sessionStorage.getItem('dllama.key'), localStorage.getItem('dllama.key')]"
    assert page.evaluate(stored) == [None, "open sesame"]
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_role("dialog", name="API key")).to_be_hidden()
    assert page.evaluate(stored) == [None, None]


def test_without_the_key_the_message_can_be_tried_again(page: Page, api: FakeApi) -> None:
    api.api_key = "open sesame"
    send(page, "Hello")
    page.get_by_role("dialog", name="API key").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
    api.api_key = None
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("You said: Hello")


def test_a_full_queue_is_waited_for(page: Page, api: FakeApi) -> None:
    full = Reply(status=429, message="the queue is full", code="queue_full", headers={"Retry-After": "0"})
    late = Reply(status=429, message="the queue is full", code="queue_full", headers={"Retry-After": "600"})
    api.replies.extend([full, full])
    send(page, "Hello")
    expect(page.get_by_role("article", name="Reply")).to_contain_text("You said: Hello")
    assert len(api.requests) == 3
    api.replies.append(late)
    send(page, "Once more")
    note = page.get_by_role("article", name="Reply").last
    expect(note).to_contain_text("The queue is full. Trying again in")
    page.get_by_label("Message", exact=True).press("Escape")
    expect(note).to_contain_text("Stopped.")


def test_a_cluster_that_recovers_is_waited_for(page: Page, api: FakeApi) -> None:
    lost = Reply(status=503, message="worker 2 is gone", code="node_lost", headers={"Retry-After": "600"})
    back = Reply(status=503, message="worker 2 is gone", code="node_lost", headers={"Retry-After": "0"})
    api.replies.extend([back, Reply(pieces=["here again"]), lost])
    send(page, "Hello")
    expect(page.get_by_role("article", name="Reply")).to_contain_text("here again")
    send(page, "Hello")
    note = page.get_by_role("article", name="Reply").last
    expect(note).to_contain_text("The cluster is being put together again")
    expect(note).to_contain_text("Worker 2 is gone. Trying again in")


def test_a_full_context_leads_to_a_new_conversation(page: Page, api: FakeApi) -> None:
    message = "the prompt has 8312 tokens, and the context holds 8192"
    api.replies.append(Reply(status=400, message=message, code="context_length_exceeded"))
    send(page, "A very long story")
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("too long for the model")
    expect(problem).to_contain_text("The prompt has 8312 tokens, and the context holds 8192.")
    problem.get_by_role("button", name="New conversation").click()
    expect(page.get_by_text("What shall we talk about?")).to_be_visible()


def test_a_server_that_is_gone_and_comes_back(page: Page, api: FakeApi) -> None:
    expect(page.locator(".node")).to_have_count(3)
    api.close()
    try:
        expect(page.locator("[data-show=trouble]")).to_contain_text("The server does not answer.")
        send(page, "Anybody?")
        expect(page.get_by_role("alert")).to_contain_text("The server is gone")
    finally:
        api.start()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("You said: Anybody?")
    expect(page.locator("[data-show=trouble]")).to_be_hidden()


def test_a_stream_that_breaks_keeps_what_came(page: Page, api: FakeApi) -> None:
    api.replies.append(Reply(pieces=["Half a"], breaks=True))
    send(page, "Go")
    expect(page.get_by_role("article", name="Reply")).to_contain_text("Half a")
    expect(page.get_by_role("alert")).to_contain_text(
        "The connection was lost before the reply was complete."
    )


def test_an_error_within_a_stream(page: Page, api: FakeApi) -> None:
    api.replies.append(Reply(pieces=["Half a"], message="worker 2 (10.0.0.2:9998) is gone", code="node_lost"))
    send(page, "Go")
    expect(page.get_by_role("alert")).to_contain_text("The server failed")
    expect(page.get_by_role("alert")).to_contain_text("Worker 2 (10.0.0.2:9998) is gone.")


def test_after_a_failure_turns_still_alternate(page: Page, api: FakeApi) -> None:
    api.replies.append(Reply(status=503, message="worker 2 is gone", code="node_lost"))
    send(page, "One")
    expect(page.get_by_role("alert")).to_be_visible()
    send(page, "Two")
    expect(page.get_by_role("article", name="Reply").last).to_contain_text("Two")
    assert api.requests[-1]["messages"] == [{"role": "user", "content": "One\n\nTwo"}]


def test_a_full_storage_is_told(page: Page) -> None:
    page.evaluate(
        "() => { Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') } }"
    )
    send(page, "Hello")
    expect(page.get_by_role("article", name="Reply")).to_contain_text("You said: Hello")
    expect(page.locator("#notices")).to_contain_text("storage is full")


BLOCKED = """for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
}"""
"""As Chromium has it when all cookies are blocked: the attribute itself throws."""


def test_without_any_storage_the_page_works_until_it_is_closed(page: Page, api: FakeApi) -> None:
    note = page.get_by_text("This browser blocks storage")
    expect(note).to_be_hidden()
    page.add_init_script(BLOCKED)
    page.reload()
    expect(note).to_be_visible()
    expect(page.locator(".node")).to_have_count(3)
    api.api_key = "open sesame"
    send(page, "Hello")
    page.get_by_label("Key", exact=True).fill("open sesame")
    page.get_by_role("button", name="Use key").click()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("You said: Hello")
    page.get_by_role("button", name="New conversation").click()
    page.get_by_label("Theme").select_option("dark")
    page.locator("#list .choose").click()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("You said: Hello")
    page.reload()
    expect(page.locator("#list .choose")).to_have_count(0)
    expect(note).to_be_visible()


def test_a_full_storage_does_not_keep_the_page_from_starting(page: Page) -> None:
    page.add_init_script(
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }"
    )
    page.reload()
    expect(page.locator(".node")).to_have_count(3)
