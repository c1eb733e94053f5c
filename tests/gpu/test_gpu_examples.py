"""The examples of docs/cuda.md, run as printed but for the model, which is a tiny one."""

import pytest

from tests.test_examples import MODEL, ON_A_DEVICE, examples
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("at", range(ON_A_DEVICE["docs/cuda.md"]))
def test_an_example_runs_as_printed(at, tmp_path, capsys):
    example = examples("docs/cuda.md")[at]
    assert f'"{MODEL}"' in example
    model = str(make_tiny_model(tmp_path, "Q4_1").path)
    exec(compile(example.replace(MODEL, model), "docs/cuda.md", "exec"), {})
    assert capsys.readouterr().out
