"""The process that owns a judge's vLLM engine; see `rankdistill.sample.vllm_worker`.

    start   engine                          {"ready": true}
    judge   id, prompt, schema, params      {"id": id, "tokens": [...], "cut": bool, "steps": [...]}

`steps` has the log-probabilities of the likeliest tokens at every token, by token id; [] where
`params` did not ask for them.
"""

from __future__ import annotations

from typing import Any

from rankdistill.sample.vllm_worker import Worker, main


class JudgeWorker(Worker):
    """Writes texts that a JSON schema allows."""

    def judge(
        self, id: int, prompt: list[int], schema: dict[str, Any], params: dict[str, Any]
    ) -> None:
        """One answer."""
        from vllm.sampling_params import StructuredOutputsParams

        self._add(
            str(id), prompt, structured_outputs=StructuredOutputsParams(json=schema), **params
        )

    def _step(self) -> None:
        if not self._llm.llm_engine.has_unfinished_requests():
            return
        for output in self._llm.llm_engine.step():
            if output.finished:
                written = output.outputs[0]
                self._answer(
                    id=int(output.request_id),
                    tokens=list(written.token_ids),
                    cut=written.finish_reason == "length",
                    steps=[
                        {token: entry.logprob for token, entry in step.items()}
                        for step in written.logprobs or []
                    ],
                )


if __name__ == "__main__":
    main(JudgeWorker)
