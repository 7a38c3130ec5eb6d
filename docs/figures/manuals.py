"""The manuals of Perl and Python as two folders of Markdown files, to be searched.

apt-get download perl-doc python3.11-doc
for deb in *.deb; do dpkg-deb -x $deb unpacked; done
python docs/figures/manuals.py unpacked manuals
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

PERL, PYTHON = "usr/share/perl", "usr/share/doc/python3.11/html/_sources"
LISTS = re.compile(r"perl(toc|faq|\d\w*delta|delta|hist|uniprops|modlib|api|intern|glossary)\.pod")
"""Contents (perlfaq lists every question), release notes, indices: they repeat other pages."""


def main() -> None:
    unpacked, out = map(Path, sys.argv[1:])
    _write(unpacked / PERL, "*.pod", out / "perl", from_pod)
    _write(unpacked / PYTHON, "*.rst.txt", out / "python", from_rst)


def from_pod(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if found := re.match(r"=head(\d) +(.+)", line):
            line = f"{'#' * int(found[1])} {found[2]}"
        elif found := re.match(r"=item +(.+)", line):
            line = f"- {found[1]}"
        elif line.startswith("="):
            line = ""
        elif line.startswith((" ", "\t")):  # code, of which a comment is no heading
            line = f"    {line}"
        lines.append(line)
    text = re.sub(r"X<[^>]*>", "", "\n".join(lines))
    text = re.sub(r"L<(?:([^|>]*)\|)?([^>]*)>", lambda m: m[1] or m[2], text)
    return _entities(re.sub(r"\b[CBIFS]<(?:<+ )?(.*?)(?: >+)?>", r"\1", text))


def from_rst(text: str) -> str:
    text = re.sub(r"(?m)^(\S.*)\n([=\-~^*#\"'+])\2{2,}$", r"\n# \1\n", text)
    text = re.sub(r"(?m)^[=\-~^*#\"'+]{3,}$", "", text)
    text = re.sub(r"(?m)^\.\. (?:_|index|module|versionadded|versionchanged).*$", "", text)
    text = re.sub(r"(?m)^ *(?:\.\. [\w:]+:: ?|:[a-z-]+:(?: .*|$))", "", text)
    text = re.sub(r":[\w:]+:`[!~]?([^`<]*?)(?: *<[^>]*>)?`", r"\1", text)
    return re.sub(r"`([^`<]+?) *<[^>]*>`_+", r"\1", text).replace("``", "")


def _entities(text: str) -> str:
    return re.sub(r"E<(\w+)>", lambda m: {"lt": "<", "gt": ">"}.get(m[1], ""), text)


def _write(source: Path, names: str, out: Path, turned: Callable[[str], str]) -> None:
    for file in sorted(source.rglob(names)):
        if LISTS.fullmatch(file.name) or "whatsnew" in file.parts:
            continue
        page = out / file.relative_to(source).with_suffix("").with_suffix(".md")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(turned(file.read_text(errors="replace")))


if __name__ == "__main__":
    main()
