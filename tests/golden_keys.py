"""The keys of a run's outputs without what differs between machines, and what changed in them.

An identity of a run on a tiny model holds digests of its weights and, in a few places, what models
wrote. Both may differ in the last bit between versions of torch, so names take their place; the key
of an output is then computed anew, and so are all that are made from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from rankdistill import models
from rankdistill.evaluate.prompting import PROMPTINGS
from rankdistill.store import Store, canonical_json, key_of
from rankdistill.store.identity import KEY_PATTERN

FILE = Path(__file__).with_name("golden_keys.json")
_TEXTS = "what models wrote"
_WAY = re.compile(rf" ({'|'.join(PROMPTINGS)}) ")


@dataclass(frozen=True)
class Made:
    """One output of a run, as any machine would make it."""

    key: str
    identity: Mapping[str, Any]

    @property
    def stage(self) -> str:
        return self.key.rpartition("-")[0]


def made_in(folder: Path, store: Store, teacher: Path) -> list[Made]:
    """The outputs of the run in `folder`, in the order in which it asked for them."""
    names = {models.identity(str(teacher))["sha256"]: "the teacher's weights"}
    found = []
    for record in json.loads((folder / "metrics.json").read_text())["stages"]:
        output = store.find(record["key"])
        assert output is not None, record["key"]
        identity = renamed(_outcomes_named(output.manifest["identity"]), names)
        unknown = set(re.findall(KEY_PATTERN, canonical_json(identity))) - set(names.values())
        assert not unknown, f"{record['key']} is made from {unknown}, which no stage made before"
        names[output.key] = key_of(output.stage, identity)
        found.append(Made(names[output.key], identity))
    return found


def _outcomes_named(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity without what models wrote, and without the prompt that did best for it."""
    named = dict(identity)
    answers = named.get("answers")
    if isinstance(answers, list) or (answers and not re.fullmatch(KEY_PATTERN, answers)):
        named["answers"] = _TEXTS
    if named.get("splits") == ["heldout"]:
        named["prompts"] = _WAY.sub(" the better prompt ", named["prompts"])
    return named


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The value with every name of `names` in its strings replaced."""
    if isinstance(value, Mapping):
        return {name: renamed(part, names) for name, part in value.items()}
    if isinstance(value, list):
        return [renamed(part, names) for part in value]
    if isinstance(value, str) and names:
        pattern = "|".join(map(re.escape, names))
        return re.sub(pattern, lambda found: names[found[0]], value)
    return value


def write(recipe: str, found: Sequence[Made]) -> None:
    """Records the outputs as those that the recipe has."""
    kept = read() if FILE.exists() else {}
    kept[recipe] = list(found)
    identities = {made.key: made.identity for outputs in kept.values() for made in outputs}
    recipes = {name: [made.key for made in kept[name]] for name in sorted(kept)}
    FILE.write_text(
        '{"recipes": {\n' + _lines(recipes) + '},\n"identities": {\n' + _lines(identities) + "}}\n"
    )


def _lines(values: Mapping[str, Any]) -> str:
    """One line per value, so that a diff shows which of them changed."""
    return ",\n".join(f"{json.dumps(name)}: {canonical_json(values[name])}" for name in values)


def read() -> dict[str, list[Made]]:
    """The outputs of every recipe, as they were recorded."""
    content = json.loads(FILE.read_text())
    return {
        name: [Made(key, content["identities"][key]) for key in keys]
        for name, keys in content["recipes"].items()
    }


def changes(before: Sequence[Made], after: Sequence[Made]) -> list[str]:
    """A line for every output that changed by itself, and one for those made from these."""
    pairs = list(_aligned(before, after))
    became = {old.key: new.key for old, new in pairs if old and new and old.key != new.key}
    lines, follow, told = [], 0, set()
    for old, new in pairs:
        both = (old and old.key, new and new.key)
        if both[0] == both[1] or both in told:  # a run asks for some outputs more than once
            continue
        told.add(both)
        if not old or not new:
            one = new or old
            assert one is not None
            about = canonical_json(one.identity)
            lines.append(f"{'new' if new else 'gone'}: {one.stage} of {about}")
        elif fields := list(differences(renamed(old.identity, became), new.identity)):
            lines.append(f"{new.stage}: " + "; ".join(fields))
        else:
            follow += 1
    return [*lines, f"{follow} other outputs are made from these"] if follow else lines


def _aligned(
    before: Sequence[Made], after: Sequence[Made]
) -> Iterator[tuple[Made | None, Made | None]]:
    """The outputs side by side; None where one has no counterpart."""
    own = [[_own(made) for made in outputs] for outputs in (before, after)]
    blocks = SequenceMatcher(a=own[0], b=own[1], autojunk=False).get_opcodes()
    for _, a, a_end, b, b_end in blocks:
        yield from _by_stage(before[a:a_end], after[b:b_end])


def _by_stage(
    before: Sequence[Made], after: Sequence[Made]
) -> Iterator[tuple[Made | None, Made | None]]:
    """Pairs the outputs of one stage in their order."""
    left = list(after)
    for old in before:
        new = next((made for made in left if made.stage == old.stage), None)
        if new is not None:
            left.remove(new)
        yield old, new
    yield from ((None, new) for new in left)


def _own(made: Made) -> str:
    """What an output is, whatever it is made from."""
    return made.stage + re.sub(KEY_PATTERN, "", canonical_json(made.identity))


def differences(before: Any, after: Any, path: str = "") -> Iterable[str]:
    """The fields of an identity that differ, each with its two values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            inner = f"{path}.{name}".lstrip(".")
            if name not in after:
                yield f"{inner} is gone"
            elif name not in before:
                yield f"{inner} is new: {after[name]}"
            else:
                yield from differences(before[name], after[name], inner)
    elif before != after:
        yield f"{path}: {before} -> {after}"
