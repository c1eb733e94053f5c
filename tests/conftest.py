import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def state_folder_of_the_tests(tmp_path_factory):
    """No test, and no process it starts, touches the state of the user's own device."""
    before = os.environ.get("PTMO_STATE")
    os.environ["PTMO_STATE"] = str(tmp_path_factory.mktemp("state") / "ptmo")
    yield
    if before is None:
        del os.environ["PTMO_STATE"]
    else:
        os.environ["PTMO_STATE"] = before
