"""The cluster beside the chat: who computes what, and who holds the others back."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from support.fake_api import FakeApi, cluster_view, node


def test_every_node_is_shown(page: Page) -> None:
    nodes = page.get_by_role("complementary", name="Cluster").locator(".node")
    expect(nodes).to_have_count(3)
    expect(nodes.nth(0)).to_contain_text("root")
    expect(nodes.nth(2)).to_contain_text("worker 2")
    expect(nodes.nth(2)).to_contain_text("10.0.0.2:9998")
    expect(nodes.nth(2)).to_contain_text("33 % of the model · 342 MB of 8.6 GB")
    expect(nodes.nth(2)).to_contain_text("4 threads, neon-dotprod · could do 25.0 steps/s")
    expect(nodes.nth(2).locator(".words")).to_have_text("computes 40.0waits 0.0sends 4.0")
    expect(page.locator("[data-show=rate]")).to_have_text("24.1")
    expect(page.locator("[data-show=about]")).to_have_text("3 nodes · 8,192 tokens of context")
    expect(page.locator("[data-show=engine]")).to_contain_text("28 % in use, 17 % kept for reuse")
    expect(page.locator("[data-show=engine]")).to_contain_text("76 % of prompt tokens")


def test_bars_have_one_scale(page: Page) -> None:
    expect(page.locator(".node")).to_have_count(3)
    widths = "bars => bars.map(bar => [...bar.children].map(part => parseFloat(part.style.width)))"
    shown = page.locator(".node .bar.times").evaluate_all(widths)
    wanted = [[28, 12, 4], [27, 13, 4], [40, 0, 4]]
    for got, milliseconds in zip(shown, wanted, strict=True):
        for width, value in zip(got, milliseconds, strict=True):
            assert abs(width - 100 * value / 44) < 0.01


def test_the_slowest_is_named(page: Page, api: FakeApi) -> None:
    verdict = page.locator("[data-show=verdict]")
    expect(verdict).to_contain_text("Worker 2 is the slowest: the others wait 12.5 ms of 44.0 for it.")
    expect(verdict).to_contain_text(
        "With 26 % of the model instead of 33 % it would keep up: --shares 37 38 26"
    )
    expect(page.locator(".node.meant")).to_contain_text("worker 2")
    api.cluster = cluster_view([node(0, 30, 1, 9), node(1, 29, 2, 9), node(2, 31, 0, 9)])
    expect(verdict).to_contain_text("Well balanced")
    expect(page.locator(".node.meant")).to_have_count(0)


def test_mean_or_last_step(page: Page, api: FakeApi) -> None:
    view = cluster_view([node(0, 20, 0, 2)])
    view["nodes"][0]["last"] = {"compute_s": 0.5, "wait_s": 0.0, "wire_s": 0.0}
    api.cluster = view
    words = page.locator(".node .words")
    expect(words).to_have_count(1)
    expect(words).to_have_text("computes 20.0waits 0.0sends 2.0")
    page.get_by_label("last").check(force=True)
    expect(words).to_have_text("computes 500waits 0sends 0")


@pytest.mark.slow
def test_before_the_first_step_and_while_recovering(page: Page, api: FakeApi) -> None:
    view = cluster_view([node(0, 0, 0, 0), node(1, 0, 0, 0)])
    for one in view["nodes"]:
        one.update(last=None, mean=None, kv_bytes=None, memory_bytes=None, n_threads=None, isa=None)
    api.cluster = view | {"engine": None, "max_model_len": None}
    expect(page.locator("[data-show=verdict]")).to_contain_text("No times of a step have come yet.")
    expect(page.locator(".node").first).to_contain_text("no times yet")
    api.cluster = view | {"status": "recovering", "reason": "worker 1 is gone", "nodes": [], "engine": None}
    expect(page.locator("[data-show=trouble]")).to_have_text("Worker 1 is gone.")


@pytest.mark.slow
def test_nobody_asks_while_the_page_is_hidden(page: Page, api: FakeApi) -> None:
    expect(page.locator(".node")).to_have_count(3)
    hide = """(isHidden) => {
        Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with page.expect_response("**/api/cluster"):
        pass
    page.evaluate(hide, True)
    n_polls = api.n_polls
    with page.expect_response("**/api/cluster"):  # the next one comes only when it is shown again
        page.evaluate("() => new Promise((resolve) => setTimeout(resolve, 1500))")
        assert api.n_polls <= n_polls + 1
        page.evaluate(hide, False)


def test_a_lost_node_stays_and_says_since_when(page: Page, api: FakeApi, screenshots: Path) -> None:
    nodes = page.locator(".node")
    expect(nodes).to_have_count(3)
    view = cluster_view([node(0, 28, 12, 4), node(1, 27, 13, 4), node(2, 40, 0, 4)])
    when = datetime.datetime(2025, 3, 4, 14, 3, 12)
    view["nodes"][2].update(lost_since=when.timestamp(), lost_reason="no sign for 10 s")
    api.cluster = view | {"status": "recovering", "reason": "lost worker 10.0.0.2:9998", "engine": None}
    expect(page.locator("[data-show=state]")).to_have_text("recovering")
    expect(nodes).to_have_count(3)
    lost = page.locator(".node.lost")
    expect(lost.get_by_role("heading")).to_have_text("worker 2")
    expect(lost).to_contain_text(re.compile(r"Last heard of at .*2025.*0[23]:03:12.*: no sign for 10 s"))
    red = lost.get_by_role("heading").evaluate("it => getComputedStyle(it).color")
    assert red == page.locator("[data-show=state]").evaluate("it => getComputedStyle(it).color")
    assert red != nodes.first.get_by_role("heading").evaluate("it => getComputedStyle(it).color")
    page.screenshot(path=screenshots / "lost-node.png")
    api.cluster = cluster_view([node(0, 28, 12, 4), node(1, 27, 13, 4), node(2, 40, 0, 4)])
    expect(lost).to_have_count(0)


@pytest.mark.slow
def test_a_cluster_that_computes_nothing_is_not_judged_in_amber(page: Page, api: FakeApi) -> None:
    verdict, meant = page.locator("[data-show=verdict]"), page.locator(".node.meant")
    expect(meant).to_have_count(1)
    amber = verdict.evaluate("it => getComputedStyle(it).backgroundColor")
    api.cluster["engine"]["running"] = 0
    expect(verdict).to_contain_text("Nothing is computed now. When it last was:")
    expect(verdict).to_contain_text("Worker 2 is the slowest")  # still worth knowing
    expect(meant).to_have_count(0)
    assert verdict.evaluate("it => getComputedStyle(it).backgroundColor") != amber
    api.cluster["engine"]["running"] = 1
    expect(meant).to_have_count(1)
    expect(verdict).not_to_contain_text("Nothing is computed")
    assert verdict.evaluate("it => getComputedStyle(it).backgroundColor") == amber


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_chosen_times_stand_out(page: Page, theme: str) -> None:
    """By 1.15 to 1 and more: a part of the switch is not the text of a paragraph, but has to be seen."""
    page.emulate_media(color_scheme="light" if theme == "light" else "dark")
    chosen = luminance(page.locator(".switch input:checked + span"))
    around = luminance(page.locator(".switch"))
    assert (max(chosen, around) + 0.05) / (min(chosen, around) + 0.05) > 1.15


def luminance(place: Locator) -> float:
    """Contrast to its background, as WCAG has it."""
    colour = place.evaluate("it => getComputedStyle(it).backgroundColor")
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))
