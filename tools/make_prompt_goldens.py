"""Renders a conversation with tools by transformers, with the templates that models are published with.

    python tools/make_prompt_goldens.py FOLDER_OF_TEMPLATES tests/server/prompt_goldens.json

The file's "messages" and "tools" are rendered, in the form that Hugging Face's `apply_chat_template` takes; its
"prompts" are written anew, for the templates that it names. Needs transformers, which the tests do not.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import jinja2.sandbox
from transformers.utils.chat_template_utils import render_jinja_template

DATE = "2026-01-02"
"""Stands for today's, which some templates write."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("templates", type=Path)
    parser.add_argument("goldens", type=Path)
    args = parser.parse_args()
    jinja2.sandbox.modifies_known_mutable = lambda *_: False  # one template appends to a list
    goldens = json.loads(args.goldens.read_text(encoding="utf-8"))
    for name in goldens["prompts"]:
        (prompt,), _ = render_jinja_template(
            [goldens["messages"]],
            tools=goldens["tools"],
            chat_template=(args.templates / f"{name}.jinja").read_text(encoding="utf-8"),
            add_generation_prompt=True,
            bos_token="<BOS>",
        )
        goldens["prompts"][name] = prompt.replace(datetime.date.today().isoformat(), DATE)
    args.goldens.write_text(json.dumps(goldens, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
