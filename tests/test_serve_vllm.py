"""The bundled model with layers dropped, exported: vLLM's server, and Inferless's `app.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from export_runs import finished_run

from rankdistill.export import export, open_source
from rankdistill.http_client import client
from rankdistill.models import keep_layers, load_model, load_tokenizer, save_model
from rankdistill.serve import command as commands
from rankdistill.serve.command import Serving
from rankdistill.serve.process import Server, free_port
from rankdistill.serve.talk import answer, served_model

pytestmark = [pytest.mark.bundled, pytest.mark.vllm]

MODEL = "bundled/smollm2-135m-instruct"
QUESTIONS = ("What is the capital of France?", "Name three animals.", "2 + 2 =")
TOKENS = 24


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """26 of the 30 layers: the model still writes English."""
    folder = tmp_path_factory.mktemp("bundled")
    home = os.environ.get("RANKDISTILL_TEST_HOME") or str(folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANKDISTILL_HOME", home)
        run = finished_run(folder / "student")
        shutil.rmtree(run / "model")
        kept = [i for i in range(30) if i not in (13, 14, 15, 17)]
        save_model(keep_layers(load_model(MODEL), kept), load_tokenizer(MODEL), run / "model")
        return export(open_source(run), folder / "export")


def greedy(folder) -> list[str]:
    """What transformers alone makes of the folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    texts = []
    for question in QUESTIONS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True,
        )  # fmt: skip
        output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        ids = output[0, inputs["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


def answers_of(http, model: str) -> list[str]:
    """Greedy chat completions."""
    return [
        "".join(
            answer(
                http, model, [{"role": "user", "content": question}],
                temperature=0, max_tokens=TOKENS,
            )
        )
        for question in QUESTIONS
    ]  # fmt: skip


def test_transformers_own_server_where_there_is_no_vllm(exported, monkeypatch):
    monkeypatch.setattr(commands, "server", lambda: "transformers")
    serving = Serving(exported, "127.0.0.1", free_port(), "student")
    with Server(serving), client(serving.url) as http:
        assert answers_of(http, serving.asked_for) == greedy(exported)


def test_a_chat_completion_is_greedy_generation(exported, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    serving = Serving(exported, "127.0.0.1", free_port(), "student", ["--max-model-len", "512"])
    with Server(serving), client(serving.url) as http:
        assert served_model(http) == serving.asked_for == "student"
        answers = answers_of(http, "student")
        http.headers.pop("authorization")
        assert http.get("models").status_code == 401
    assert answers == greedy(exported)


APP = """
import sys, types
platform = types.ModuleType("inferless")
platform.request = platform.response = lambda model: model
sys.modules["inferless"] = platform
sys.modules["rankdistill"] = None
sys.path.insert(0, sys.argv[1])
import app
model = app.InferlessPythonModel()
model.initialize()
request = app.RequestObjects(prompt=sys.argv[2], temperature=0, max_tokens=int(sys.argv[3]))
response = model.infer(request)
assert isinstance(response, app.ResponseObjects)
model.finalize()
assert model.llm is None
print("ANSWER", response.model_dump_json(), flush=True)
import os
os._exit(0)  # vLLM's own teardown can hang
"""


def test_inferless_app_answers(exported):
    environment = {
        **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1", "TORCH_COMPILE_DISABLE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", APP, str(exported), QUESTIONS[0], "8"],
        cwd="/", env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert told and '"generated_result":"' in told[0], done.stderr[-2000:]
