"""The page's modules without a page, in node: Markdown, server-sent events, the verdict on a cluster."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from support.fake_api import MARGINS, WEB, node

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node on this computer")


def run_js(module: str, expression: str, *values: object) -> Any:
    """What `expression` is, or resolves to; `values` are in it, and the module's exports are as `m`."""
    script = f"""
        import * as m from {json.dumps((WEB / module).as_uri())};
        const values = {json.dumps(values)};
        console.log(JSON.stringify(await ({expression})));
    """
    assert NODE is not None
    command = [NODE, "--input-type=module", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def blocks(text: str) -> Any:
    """The blocks of `text` without their sources."""
    strip = "(key, value) => (key === 'source' ? undefined : value)"
    return run_js("markdown.js", f"JSON.parse(JSON.stringify(m.parseBlocks(values[0]), {strip}))", text)


def inline(text: str) -> Any:
    return run_js("inline.js", "m.parseInline(values[0])", text)


def paragraph(text: str) -> dict[str, str]:
    return {"kind": "paragraph", "text": text}


def test_lists_inside_each_other_with_code() -> None:
    text = "1. one\n   ```py\n   x = 1\n\n   y = 2\n   ```\n2. two\n   - a\n     b\n   - [x] c\n\nafter"
    inner = [
        {"isDone": None, "blocks": [paragraph("a\nb")]},
        {"isDone": True, "blocks": [paragraph("c")]},
    ]
    code = {"kind": "code", "language": "py", "text": "x = 1\n\ny = 2"}
    assert blocks(text) == [
        {
            "kind": "list",
            "start": 1,
            "items": [
                {"isDone": None, "blocks": [paragraph("one"), code]},
                {
                    "isDone": None,
                    "blocks": [paragraph("two"), {"kind": "list", "start": None, "items": inner}],
                },
            ],
        },
        paragraph("after"),
    ]


def test_tables_keep_their_shape() -> None:
    text = "| a | b |\n|:-:|--:|\n| 1 |\n| `x|y` | \\| | extra |\nnot a row"
    assert blocks(text) == [
        {
            "kind": "table",
            "align": ["center", "right"],
            "head": ["a", "b"],
            "rows": [["1", ""], ["`x|y`", "|"]],
        },
        paragraph("not a row"),
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("# T #", {"kind": "heading", "level": 1, "text": "T"}),
        ("#hash", paragraph("#hash")),
        ("* * *", {"kind": "rule"}),
        ("> a\n> > b", {"kind": "quote", "blocks": [paragraph("a"), {"kind": "quote", "blocks": [paragraph("b")]}]}),
        ("It was\n1986. Then", paragraph("It was\n1986. Then")),
        ("~~~\nopen", {"kind": "code", "language": "", "text": "open"}),
        ("````\n```\n````", {"kind": "code", "language": "", "text": "```"}),
        ("<div>\n<script>x</script>", paragraph("<div>\n<script>x</script>")),
    ],
)  # fmt: skip
def test_blocks(text: str, kind: dict[str, Any]) -> None:
    assert blocks(text) == [kind]


def test_a_growing_text_keeps_its_finished_blocks() -> None:
    """Whatever has come, the blocks before the last two are those of the whole text."""
    text = (
        "Hello **you**\n\n- a\n- b\n\n  c\n\n```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nEnd.\n"
    )
    sources = "(text) => m.parseBlocks(text).map((block) => block.source)"
    grown = run_js(
        "markdown.js", f"[...values[0]].map((_, n) => ({sources})(values[0].slice(0, n + 1)))", text
    )
    whole = grown[-1]
    assert len(whole) == 5
    for parts in grown:
        assert parts[:-2] == whole[: len(parts[:-2])]


def test_inline() -> None:
    text = "a **b _c_** `x*y` ***d*** ~~e~~ 2 * 3 * 4 snake_case_name \\*f\\* <i>"
    assert inline(text) == [
        "a ",
        {"kind": "strong", "children": ["b ", {"kind": "emphasis", "children": ["c"]}]},
        " ",
        {"kind": "code", "text": "x*y"},
        " ",
        {"kind": "emphasis", "children": [{"kind": "strong", "children": ["d"]}]},
        " ",
        {"kind": "strike", "children": ["e"]},
        " 2 * 3 * 4 snake_case_name *f* <i>",
    ]


def test_links() -> None:
    text = '[a *b*](https://e.org/x_(y) "t") http://e.org/z). ![p](https://e.org/p.png) [no](javascript:x)'
    link = {"kind": "link"}
    assert inline(text) == [
        link | {"url": "https://e.org/x_(y)", "children": ["a ", {"kind": "emphasis", "children": ["b"]}]},
        " ",
        link | {"url": "http://e.org/z", "children": ["http://e.org/z"]},
        "). ",
        link | {"url": "https://e.org/p.png", "children": ["p"]},
        " no (javascript:x)",
    ]


def test_only_these_addresses_are_safe() -> None:
    safe = ["https://e.org/", "http://e.org/a?b#c", "mailto:a@e.org"]
    unsafe = [
        "javascript:alert(1)", "JAVASCRIPT:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)",
        "\u0001javascript:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "blob:https://e.org/1",
        "//e.org/x", "/x", "x", "",
    ]  # fmt: skip
    assert run_js("inline.js", "values[0].map(m.safeUrl)", safe) == safe
    assert run_js("inline.js", "values[0].map(m.safeUrl)", unsafe) == [None] * len(unsafe)


def test_hostile_text_takes_linear_time() -> None:
    """20 times the text takes about 20 times as long; a busy computer may stretch that."""
    pieces = [
        "*",
        "**a ",
        "a*b_",
        "_",
        "[",
        "![",
        "[](",
        "`",
        "`a``",
        "<",
        "&",
        "> ",
        "- ",
        "1. ",
        "| ",
        "~~",
    ]
    growth = run_js(
        "markdown.js",
        """(async () => {
            const { parseInline } = await import(values[1]);
            const time = (text) => {
                const start = performance.now();
                for (const block of m.parseBlocks(text)) parseInline(block.text ?? "");
                return performance.now() - start;
            };
            const quicker = (text) => Math.min(time(text), time(text));  // something else may hold one of them up
            return values[0].map((piece) => [piece, time(piece.repeat(500)), quicker(piece.repeat(10000))]);
        })()""",
        pieces,
        (WEB / "inline.js").as_uri(),
    )
    for piece, short_ms, long_ms in growth:
        assert long_ms < 20 * 10 * max(short_ms, 1), (piece, short_ms, long_ms)


@pytest.mark.parametrize(
    "text",
    [
        "- a\n  - b\n    - c\n  - d\n- e",
        "- a\n    - b\n        - c\n    - d\n- e",
        "- a\n\t- b\n\t\t- c\n\t- d\n- e",
        "* a\n   + b\n      * c\n   + d\n* e",
        "- a\n\n  - b\n\n    - c\n\n  - d\n\n- e",
    ],
    ids=["two spaces", "four", "tabs", "three", "blank lines"],
)
def test_lists_in_lists(text: str) -> None:
    assert tree(text) == [["a", ["b", ["c"], "d"], "e"]]


@pytest.mark.parametrize(
    "text",
    [
        "10. a\n   - b\n     - c\n   - d\n11. e",
        "1. a\n  - b\n    - c\n  - d\n2. e",
        "1) a\n   1) b\n      1) c\n   2) d\n2) e",
        "1. a\n\t- b\n\t\t- c\n\t- d\n2. e",
    ],
    ids=["less than the number is wide", "two spaces", "numbers alone", "tabs"],
)
def test_lists_in_numbered_lists(text: str) -> None:
    assert tree(text) == [["a", ["b", ["c"], "d"], "e"]]


def test_a_tab_within_code_in_a_list_stays() -> None:
    (found,) = blocks("- a\n\t```make\n\tall:\n\t\techo\n\t```\n- b")
    assert found["items"][0]["blocks"][1]["text"] == "all:\n\techo"


def tree(text: str) -> list[Any]:
    """Lists as lists, items as the first letter of theirs."""

    def of_blocks(found: list[dict[str, Any]]) -> list[Any]:
        shown: list[Any] = []
        for block in found:
            if block["kind"] == "list":
                shown.append([part for item in block["items"] for part in of_blocks(item["blocks"])])
            else:
                shown.append(block["text"])
        return shown

    return of_blocks(blocks(text))


def test_events_however_they_are_cut() -> None:
    stream = 'data: {"a": "ü"}\n\n: a comment\n\nevent: x\r\ndata: two\r\ndata:lines\r\n\r\ndata: [DONE]\n\n'
    found = run_js(
        "sse.js",
        """(async () => {
            const bytes = new TextEncoder().encode(values[0]);
            const all = [];
            for (let size = 1; size <= bytes.length; size += 1) {
                const chunks = (async function* () {
                    for (let at = 0; at < bytes.length; at += size) yield bytes.slice(at, at + size);
                })();
                const data = [];
                for await (const one of m.eventData(chunks, (said) => data.push(`:${said}`))) data.push(one);
                all.push(data);
            }
            return all;
        })()""",
        stream,
    )
    assert found == [['{"a": "ü"}', ":a comment", "two\nlines", "[DONE]"]] * len(stream.encode())


def verdict(nodes: list[dict[str, Any]], margins: dict[str, float] = MARGINS) -> Any:
    return run_js(
        "verdict.js", "m.verdict(values[0], values[0].map((node) => node.mean), values[1])", nodes, margins
    )


SHARED_CORES = [(2.70, 5.71, 0.39), (2.40, 4.90, 0.50), (2.35, 4.94, 0.48)]
"""Three nodes on two cores: the root computes longest, and yet waits longest. Measured: 5.71 of 8.80 ms, the others
4.92 in the mean; the other parts are made up to fit."""


@pytest.mark.parametrize(
    ("times", "kind", "words"),
    [
        ([(28, 12, 4), (27, 13, 4), (40, 0, 4)], "device", "Worker 2 is the slowest: the others wait 12.5 ms of 44.0"),
        ([(40, 0, 4), (20, 20, 4)], "device", "Root is the slowest: the other waits 20.0 ms of 44.0 for it."),
        ([(30, 8, 4), (30, 8, 4), (30, 0, 12)], "link", "The link of worker 2 is the slowest"),
        ([(10, 1, 30), (10, 1, 30), (10, 1, 30)], "network", "bytes are under way for 30.0 ms of 41.0."),
        ([(40, 4, 0), (30, 14, 0), (31, 13, 0)], "device", "Root is the slowest: the others wait 9.5 ms of 44.0"),
        (SHARED_CORES, "nobody", "Nodes wait 5.18 ms of 8.80, and not for one alone."),
        ([(40, 0, 4), (40, 0, 4), (20, 20, 4)], "nobody", "Nodes wait 6.7 ms of 44.0, and not for one alone."),
        ([(30, 1, 3), (31, 0, 3), (30, 1, 3)], "even", "Well balanced"),
        ([(22, 0, 0)], "alone", "One node computes everything, 22.0 ms a step."),
        ([], "unknown", "No times of a step have come yet."),
    ],
)  # fmt: skip
def test_the_verdict(times: list[tuple[float, float, float]], kind: str, words: str) -> None:
    nodes = [node(rank, *of_node, share=1 / len(times)) for rank, of_node in enumerate(times)]
    said = verdict(nodes)
    assert said["kind"] == kind
    assert words in said["text"]


def test_the_margins_are_the_servers() -> None:
    nodes = [node(0, 30, 6, 1), node(1, 36, 0, 1)]
    assert verdict(nodes)["kind"] == "device"
    assert verdict(nodes, {"little_wait": 0.2, "waits_apart": 0.1})["kind"] == "even"


def test_the_advice_evens_out_what_was_measured() -> None:
    nodes = [node(0, 10, 30, 1, share=0.25), node(1, 40, 0, 1, share=0.75)]
    said = verdict(nodes)
    # speeds 0.25 / 10 and 0.75 / 40: shares of 4 to 3
    assert said["advice"] == "With 43 % of the model instead of 75 % it would keep up: --shares 57 43"


@pytest.mark.parametrize(
    ("times", "advice"),
    [
        (SHARED_CORES, "All of them wait: they share processor cores"),
        (
            [(40, 0, 4), (40, 0, 4), (20, 20, 4)],
            "They would compute for the same time with --shares 25 25 50",
        ),
    ],
)
def test_the_advice_where_nobody_alone_is_slow(times: list[tuple[float, float, float]], advice: str) -> None:
    nodes = [node(rank, *of_node) for rank, of_node in enumerate(times)]
    said = verdict(nodes)
    assert said["rank"] is None
    assert said["advice"].startswith(advice)
