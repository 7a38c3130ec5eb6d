"""A chat template for a model that has none, as most base models; and arguments of a template."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from rankdistill.errors import UserError, suggest
from rankdistill.fields import plain
from rankdistill.models.files import new_folder
from rankdistill.models.locate import content_files
from rankdistill.store import home
from rankdistill.store.files import write_atomically
from rankdistill.store.locks import held

FILE = "chat_template.jinja"
"""Where transformers reads a folder's template from."""
OF_THE_CONVERSATION = ("messages", "tools", "documents", "add_generation_prompt")
"""What `apply_chat_template` itself gives a template."""
_VERSION = "2"
"""Of the folders that `with_chat_template` makes: the first had links past the model's own."""
_KEYWORDS = {
    "if", "elif", "else", "endif", "for", "endfor", "in", "is", "not", "and", "or", "set", "endset",
    "macro", "endmacro", "true", "false", "none", "defined", *OF_THE_CONVERSATION,
}  # fmt: skip
_OWN = re.compile(r"\{%[-+]?\s*(?:for|set|macro)\s+(\w+)(?:\s*,\s*(\w+))?")
"""What a template names itself: no argument."""


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


def template_arguments(given: Any, key: str) -> dict[str, Any]:
    """The arguments of a chat template by name, as a configuration gives them.

    Args:
        given: The value of the key; None is none.
        key: Of the configuration, for a message: `student.chat_template_kwargs`.

    Raises:
        UserError: it is no mapping, or gives what a conversation itself says.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(str(name).isidentifier() for name in given):
        raise UserError(
            f"{key} is {given}: give names and values, as in '{key}={{enable_thinking: false}}'."
        )
    for name in given:
        if name in OF_THE_CONVERSATION:
            raise UserError(f"{key} gives '{name}', which each conversation has of its own.")
    return plain(given)


def with_arguments(template: str, arguments: Mapping[str, Any], whose: str) -> str:
    """A template with other defaults, which everything that renders it then has.

    Args:
        template: Jinja, as `apply_chat_template` takes it.
        arguments: Values of JSON's types by the names that the template reads.
        whose: The template is, and the arguments are, for a message.

    Raises:
        UserError: a name that the template does not read.
    """
    names = {text for _, kind, text in Environment().lex(template) if kind == "name"}
    for name in arguments:
        if name not in names:
            read = names - _KEYWORDS - {own for pair in _OWN.findall(template) for own in pair}
            raise UserError(
                f"The chat template of {whose} reads no '{name}': "
                f"{suggest(name, read) if read else 'it reads none.'}"
            )
    # Not where the caller gives one: a server's request may still say otherwise.
    set_once = (
        f"{{%- if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}"
        for name, value in arguments.items()
    )
    # The last piece writes nothing, and keeps a line break at the template's start.
    return "".join(set_once) + "{{ '' }}" + template


def with_chat_template(folder: str, template: str) -> str:
    """A folder that is the model in `folder`, by links to its files, with another template.

    A file that is a link is followed when it is read: it may lead elsewhere the next time.
    """
    source = Path(folder).resolve()
    names = {file.name for file in source.iterdir() if file.is_file()} - {FILE}
    # Code may be in folders; further templates would stand beside the given one.
    names |= {n for n in content_files(source) if "/" in n and not n.endswith(".jinja")}
    named = "\n".join([str(source), _VERSION, template, *sorted(names)])
    digest = hashlib.sha256(named.encode()).hexdigest()[:16]
    to = home() / "models" / f"{source.name}-template-{digest}"
    to.parent.mkdir(parents=True, exist_ok=True)
    with held(to.with_name(f".{to.name}.lock"), lambda: f"Waiting for {to}."):
        if not to.is_dir():
            with new_folder(to) as partial:
                for name in names:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    (partial / name).symlink_to(source / name)
                write_atomically(partial / FILE, template.encode())
    return str(to)
