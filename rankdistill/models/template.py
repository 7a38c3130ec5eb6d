"""A chat template for a model that has none: most base models."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

from rankdistill.errors import UserError, suggest
from rankdistill.models.files import new_folder
from rankdistill.models.locate import content_files
from rankdistill.store import home
from rankdistill.store.locks import held

FILE = "chat_template.jinja"
"""Where transformers reads a folder's template from."""


def chat_template(name: str) -> str:
    """The template of a shipped name (`conf/student/templates/`) or of a file.

    Raises:
        UserError: there is neither.
    """
    shipped = files("rankdistill.conf") / "student" / "templates"
    names = {
        entry.name.removesuffix(".jinja"): entry
        for entry in shipped.iterdir()
        if entry.name.endswith(".jinja")
    }
    if name in names:
        return names[name].read_text(encoding="utf-8")
    file = Path(name).expanduser()
    if not file.is_file():
        raise UserError(
            f"student.chat_template '{name}' is neither a file nor a shipped template: "
            f"{suggest(name, names)}"
        )
    return file.read_text(encoding="utf-8")


def with_chat_template(folder: str, template: str) -> str:
    """A folder that is the model in `folder`, by links to its files, with another template."""
    source = Path(folder).resolve()
    names = {file.name for file in source.iterdir() if file.is_file()} - {FILE}
    # Code may be in folders; further templates would stand beside the given one.
    names |= {n for n in content_files(source) if "/" in n and not n.endswith(".jinja")}
    named = "\n".join([str(source), template, *sorted(names)])
    digest = hashlib.sha256(named.encode()).hexdigest()[:16]
    to = home() / "models" / f"{source.name}-template-{digest}"
    to.parent.mkdir(parents=True, exist_ok=True)
    with held(to.with_name(f".{to.name}.lock"), lambda: f"Waiting for {to}."):
        if not to.is_dir():
            with new_folder(to) as partial:
                for name in names:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    (partial / name).symlink_to((source / name).resolve())
                (partial / FILE).write_text(template, encoding="utf-8")
    return str(to)
