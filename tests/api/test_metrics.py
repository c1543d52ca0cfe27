"""``/metrics`` as Prometheus reads it."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.running_api import RunningApi, eventually
from tests.support.whole_model_node import MODEL

SECRET = "Marzipan"


def samples(api: RunningApi) -> dict[str, float]:
    response = httpx.get(f"{api.url}/metrics", trust_env=False)
    assert response.headers["content-type"].startswith("text/plain; version=1.0.0")
    assert SECRET not in response.text
    return {
        f"{sample.name}{''.join(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def ask(api: RunningApi, **changes: object) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 4, "temperature": 0}
    return httpx.post(f"{api.url}/v1/chat/completions", json=body | changes, timeout=60, trust_env=False)


def test_answers_are_counted_by_how_they_end(api: RunningApi) -> None:
    usage = ask(api).json()["usage"]
    assert ask(api, max_tokens=100_000).status_code == 400
    after = samples(api)

    assert after["peerllm_answers_totallength"] + after.get("peerllm_answers_totalstop", 0) == 1
    assert after["peerllm_answers_totalfailed"] == 1
    assert after["peerllm_answer_tokens_total"] == usage["completion_tokens"]
    assert after["peerllm_prompt_tokens_total"] == usage["prompt_tokens"]
    assert after["peerllm_time_to_first_token_seconds_count"] == 1
    assert after["peerllm_hops_sum"] == 1
    assert after["peerllm_rounds_total"] == usage["completion_tokens"] - 1
    assert after["peerllm_drafted_tokens_total"] == after["peerllm_accepted_tokens_total"] == 0


def test_what_is_going_on_is_told(api: RunningApi) -> None:
    with httpx.stream(
        "POST",
        f"{api.url}/v1/chat/completions",
        json={"model": MODEL, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 300, "stream": True},
        timeout=60,
        trust_env=False,
    ) as response:
        lines = response.iter_lines()  # closes the response when it goes
        next(lines)
        assert samples(api)["peerllm_answers_running"] == 1
    assert eventually(lambda: samples(api)["peerllm_answers_running"] == 0)
    assert samples(api)["peerllm_answers_totalcancelled"] == 1
    assert samples(api)[f"peerllm_missing_blocks{MODEL}"] == 0
