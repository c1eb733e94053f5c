"""What holds for every test: none of them touches the state of a real device."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """The default folder of sealed state, for the programs that tests start as well."""
    folder = tmp_path_factory.mktemp("state") / "none"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(os.environ, "PTMO_STATE", str(folder))
        yield folder
