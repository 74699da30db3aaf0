# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the Hub tests: one server and one warm process per session, fresh repositories for every test."""

import itertools

import pytest
from hub_process import NO_CLIENT, WarmPython
from hub_server import HubServer


_numbers = itertools.count()


@pytest.fixture(scope="session")
def running_hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(running_hub):
    """The Hub, with no fault ordered and no request counted yet."""
    running_hub.faults.clear()
    running_hub.requests.clear()
    yield running_hub
    running_hub.faults.clear()


@pytest.fixture(scope="session")
def warm(running_hub, tmp_path_factory):
    process = WarmPython(running_hub.url, tmp_path_factory.mktemp("home"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def cold(running_hub, tmp_path_factory):
    process = WarmPython(running_hub.url, tmp_path_factory.mktemp("home"), NO_CLIENT)
    yield process
    process.close()


@pytest.fixture(scope="session")
def token(running_hub):
    """A token that may write to the organization "org"."""
    return running_hub.store.add_user("owner", organizations=["org"])


@pytest.fixture
def repo():
    """The name of a repository that does not exist yet."""
    return f"org/codebook-{next(_numbers)}"
