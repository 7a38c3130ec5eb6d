"""Hook of mkdocs: every command with its `--help`, on one page."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any
from unittest.mock import patch

from rankdistill.app import catalogue, start_page

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the commands where a page asks for them."""
    if MARK not in markdown:
        return markdown
    parts = ["## rankdistill", f"```text\n{start_page.USAGE.strip()}\n```"]
    for name, what in catalogue.TOOLS.items():
        parts += [f"## {name}", f"{what[0].upper()}{what[1:]}.", f"```text\n{help_of(name)}\n```"]
    return markdown.replace(MARK, "\n\n".join(parts))


def help_of(name: str) -> str:
    """What `python -m rankdistill.NAME --help` prints, at 80 columns."""
    module = f"rankdistill.{name}" if name == "accelerate" else f"rankdistill.{name}.__main__"
    argv = [f"rankdistill.{name}", "--help"]
    with (
        patch.dict(os.environ, {"COLUMNS": "80"}),
        patch("sys.argv", argv),
        redirect_stdout(StringIO()) as out,
    ):
        try:
            import_module(module).main()
        except SystemExit as ended:
            if ended.code:
                raise
    return out.getvalue().strip()
