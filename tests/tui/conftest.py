from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.conftest import ANY_PORT
from tests.support.embedded import embedded_gguf
from tests.support.running_api import RunningApi, running_api
from tests.support.sample_swarm import SampleNode
from tests.support.screens import publish_api
from tests.support.whole_model_node import WholeModel


@pytest.fixture(scope="session")
def whole_model() -> Iterator[WholeModel]:
    model = WholeModel(embedded_gguf())
    yield model
    model.close()


@pytest.fixture
def api(whole_model: WholeModel, tmp_path: Path) -> Iterator[RunningApi]:
    """The daemon of the home in `tmp_path`, which answers with a real model."""
    with running_api(ANY_PORT, whole_model) as running:
        publish_api(running, tmp_path)
        yield running


@pytest.fixture
def node() -> SampleNode:
    """What `sample_api` serves."""
    return SampleNode()


@pytest.fixture
def sample_api(node: SampleNode, tmp_path: Path) -> Iterator[RunningApi]:
    """The daemon of the home in `tmp_path`, which sees a swarm of several homes."""
    with running_api(ANY_PORT, stand_in=node) as running:
        publish_api(running, tmp_path)
        yield running
