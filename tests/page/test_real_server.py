"""The page on the program itself: `dllama api` with two workers and the demo model, as people run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from support.processes import Running, WorkerProcess, worker_processes


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with worker_processes(2) as workers:
        addresses = [worker.address for worker in workers]
        api = Running("api", "--port", 0, "--nthreads", 1, "--temperature", 0, "--workers", *addresses)
        with api:
            yield api.err.wait_for(r"is served on (http://\S+)")[1]


@pytest.fixture
def server_with_key() -> Iterator[str]:
    with Running("api", "--port", 0, "--nthreads", 1, "--temperature", 0, "--api-key", "sesame") as api:
        yield api.err.wait_for(r"is served on (http://\S+)")[1]


@pytest.fixture
def real_page(browser: Browser, server_url: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda said: failures.append(said.text) if "Security" in said.text else None)
    page.goto(server_url)
    yield page
    context.close()
    assert not failures


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def test_a_chat_on_three_nodes(real_page: Page, screenshots: Path) -> None:
    page = real_page
    expect(page.locator(".node")).to_have_count(3)
    expect(page.get_by_role("button", name="Tell me a story about a fox and a bear.")).to_be_visible()
    send(page, "What is the opposite of hot?")
    reply = page.get_by_role("article", name="Reply")
    expect(reply.first).to_contain_text("cold")
    expect(reply.first).to_contain_text("tokens/s")
    send(page, "Tell me a story about a fox and a bear.")
    expect(reply.nth(1)).to_contain_text("from the cache")  # the first turn was not computed again
    page.reload()
    expect(reply).to_have_count(2)
    expect(reply.first).to_contain_text("cold")
    expect(page.locator(".node")).to_have_count(3)
    page.screenshot(path=screenshots / "real-server.png")


def test_stopping_frees_the_server(real_page: Page) -> None:
    page = real_page
    page.get_by_role("button", name="Settings of this conversation").click()
    page.get_by_label("Stop at").fill("never said")
    page.get_by_role("button", name="Keep").click()
    send(page, "Tell me a story about a fox and a bear.")
    expect(page.get_by_role("button", name="Stop the reply")).to_be_visible()
    page.get_by_label("Message", exact=True).press("Escape")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator("[data-show=requests]")).to_have_text("none")
    send(page, "What is the opposite of hot?")
    expect(page.get_by_role("article", name="Reply").last).to_contain_text("tokens/s")


def test_a_refusal_of_the_real_server_is_told(real_page: Page) -> None:
    send(real_page, "word " * 3000)
    problem = real_page.get_by_role("alert")
    expect(problem).to_contain_text("too long for the model")
    expect(problem).to_contain_text("1024")


def test_the_real_policy_is_strict(real_page: Page, server_url: str) -> None:
    response = real_page.request.get(server_url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_key_of_the_real_server(browser: Browser, server_with_key: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(server_with_key)
    expect(page.get_by_role("button", name="Enter the key")).to_be_visible()
    send(page, "What is the opposite of hot?")
    page.get_by_label("Key", exact=True).fill("sesame")
    page.get_by_role("button", name="Use key").click()
    expect(page.get_by_role("article", name="Reply")).to_contain_text("cold")
    expect(page.locator(".node")).to_have_count(1)
    context.close()


@pytest.mark.slow
def test_a_worker_that_dies_and_comes_back(browser: Browser) -> None:
    with worker_processes(2) as (first, second):
        flags = ("--port", 0, "--nthreads", 1, "--temperature", 0, "--workers", first.address, second.address)
        with Running("api", *flags) as api:
            page = browser.new_page()
            page.goto(api.err.wait_for(r"is served on (http://\S+)")[1])
            expect(page.locator(".node")).to_have_count(3)
            second.kill()
            send(page, "What is the opposite of hot?")
            expect(page.locator(".node.lost").get_by_role("heading")).to_have_text("worker 2")
            expect(page.locator(".node.lost")).to_contain_text("Last heard of at")
            expect(page.locator(".node")).to_have_count(3)
            with WorkerProcess("--port", second.address.split(":")[1]):
                expect(page.locator(".node.lost")).to_have_count(0)
                again = page.get_by_role("button", name="Try again")
                reply = page.get_by_role("article", name="Reply")
                # It was lost in the middle of the answer, or before the page asked.
                expect(again.or_(reply.get_by_text("cold"))).to_be_visible()
                if again.is_visible():
                    again.click()
                expect(reply).to_contain_text("cold")
            page.close()
