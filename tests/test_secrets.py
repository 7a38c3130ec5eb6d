"""A URL with a secret is refused before it is written, in a sentence that does not have it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from tiny_models import build_tokenizer
from tiny_run import refusal

from rankdistill.errors import UserError
from rankdistill.fields import refuse_credentials
from rankdistill.models.tokenizer import rendered
from rankdistill.store.files import home, keep_log

SECRET = "hunter2"
URLS = [
    f"http://user:{SECRET}@host/v1", f"https://{SECRET}@host", f"s3://a:{SECRET}@b/c",
    f"http://host/v1?api_key={SECRET}", f"https://host/d.jsonl?a=1&X-Amz-Signature={SECRET}",
    f"http://user:a/{SECRET}@host/v1", f"http://user:a#{SECRET}@host", f"http://user:?{SECRET}@h",
    f"http://host/v1#access_token={SECRET}", f"http://host/v1;password={SECRET}",
    f"http://host/v1?pwd={SECRET}", f"https://host/api?code={SECRET}&a=1",
    f"https://host/a?X-Amz-Credential={SECRET}", f"simplecache::s3://a:{SECRET}@b/c",
    f"http://host/v1?api%5Fkey={SECRET}", f"http://host/v1?%74oken={SECRET}",
    f"http://host/v1;jsessionid={SECRET}", f"https://host/a?session={SECRET}",
    f"https://host/a?auth_cookie={SECRET}", f"https://host/a?proxy_auth={SECRET}",
]  # fmt: skip


def nothing_has_it(folder: Path) -> bool:
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "recipe"]
    return not any(SECRET.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("url", URLS)
def test_a_url_with_a_secret_is_told_without_it(url):
    with pytest.raises(UserError, match=r"prompts.path carries credentials") as refused:
        refuse_credentials("prompts.path", url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["http://host:8000/v1", "hf://datasets/a/b@main/c", "a@b/c", "https://host/a?download=true",
     "https://host/@user/a", "http://host:8000/@user/a", "http://host:80?x=a@b", "http://[::1]/a@b",
     "http://host:${port}/a@b", "https://host/a?author=b&encode=c", "a;code=1", None, 5],
)  # fmt: skip
def test_other_addresses_are_taken(text):
    refuse_credentials("prompts.path", text)


@pytest.mark.parametrize(
    "argument",
    [f"score.through='http://user:{SECRET}@host/v1'", f"prompts.path=https://u:{SECRET}@host/a",
     f"http://user:{SECRET}@host/v1?a=1"],
)  # fmt: skip
def test_a_command_with_one_leaves_nothing(tmp_path, monkeypatch, capsys, argument):
    told = refusal(monkeypatch, capsys, tmp_path, "recipe=likelihood", argument)
    assert "carries credentials" in told and SECRET not in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sweep", "keys", "key"),
    [
        ([], "prompts: {path: URL}", "prompts.path"),
        (["-m"], "prompts: {path: URL}", "prompts.path"),
        ([], "prompts: {path: {URL: 0.5, b.jsonl: 0.5}}", "prompts.path"),
        ([], "hydra: {job: {env_set: {PROXY: URL}}}", "hydra.job.env_set.PROXY"),
    ],
)
def test_neither_does_a_recipe_with_one(tmp_path, monkeypatch, capsys, sweep, keys, key):
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf" / "recipe" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [likelihood]\n"
        + keys.replace("URL", f"'https://a:{SECRET}@b/c'")
    )
    given = [*sweep, "--config-dir", "conf", "recipe=mine", *(["seed=0,1"] if sweep else [])]
    told = refusal(monkeypatch, capsys, tmp_path, *given)
    assert f"{key} carries credentials" in told and SECRET not in told
    assert nothing_has_it(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_home_that_is_made_here_is_its_users_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RANKDISTILL_HOME", raising=False)
    assert mode(home()) == 0o700 and home() == tmp_path / ".cache" / "rankdistill"
    home().chmod(0o755)
    assert mode(home()) == 0o755
    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "shared"))
    assert not home().exists()


def test_a_kept_log_is_new_and_its_users_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "log").write_text("the end")
    first, second = (keep_log(tmp_path / "log", "rankdistill-serve-7-") for _ in range(2))
    assert first != second and first.read_text() == "the end" and mode(first) == 0o600


def test_a_template_that_writes_without_end():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ 'a' * 3000000 }}"
    with pytest.raises(UserError, match=r"cannot write a conversation: it writes 3000000 char"):
        rendered(tokenizer, [{"role": "user", "content": "hi"}], add_generation_prompt=True)
    tokenizer.chat_template = "{{ messages[0].content * 2 }}"
    long = [{"role": "user", "content": "b" * 200_000}]
    assert len(rendered(tokenizer, long, add_generation_prompt=True)) == 400_000
