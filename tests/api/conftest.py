from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from peerllm.api.response_store import ResponseStore
from peerllm.config import ApiConfig, Config
from tests.support.embedded import embedded_gguf
from tests.support.running_api import RunningApi, running_api
from tests.support.whole_model_node import WholeModel

ANY_PORT = replace(Config(), api=ApiConfig(port=0))


@pytest.fixture(scope="session")
def whole_model() -> Iterator[WholeModel]:
    model = WholeModel(embedded_gguf())
    yield model
    model.close()


@pytest.fixture
def api(whole_model: WholeModel) -> Iterator[RunningApi]:
    """A node with its model loaded."""
    with running_api(ANY_PORT, whole_model) as running:
        yield running


@pytest.fixture
def loading_api() -> Iterator[RunningApi]:
    """A node whose model is not there yet: for everything that needs none."""
    with running_api(ANY_PORT) as running:
        yield running


@pytest.fixture
def client(api: RunningApi) -> Iterator[openai.OpenAI]:
    """The official client."""
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def storing_api(whole_model: WholeModel, tmp_path: Path) -> Iterator[RunningApi]:
    with running_api(ANY_PORT, whole_model, responses=ResponseStore(tmp_path / "responses")) as running:
        yield running


@pytest.fixture
def storing_client(storing_api: RunningApi) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{storing_api.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def idle_api() -> Iterator[RunningApi]:
    """A node whose model never comes, for all that is refused before."""
    with running_api(ANY_PORT) as running:
        yield running
