"""What a caller gets wrong is told in one line that names it, and nothing has changed."""

from pathlib import Path

import numpy as np
import pytest

from ptmo_secure.engine.adapters import AdapterWeights, random_adapter
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.low_rank import LowRankPair
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.errors import EngineError, InputError
from tests.tiny_models import make_tiny_model

IDS = [1, 2, 3]
NO_PATHS = [None, 3, b"bytes", ["list"], "", " ", "a\0b"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.fixture(scope="module")
def engine(model):
    with Engine.load(model, threads=1, shield="seal") as engine:
        yield engine


@pytest.fixture
def session(engine):
    with engine.open_session() as session:
        session.feed(IDS)
        yield session


def refusal(call, *arguments):
    """The one line of an InputError."""
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", NO_PATHS, ids=repr)
def test_what_is_no_path_is_refused_by_name(engine, session, path):
    shown = ascii(path)
    assert refusal(Engine.load, path).startswith(f"model name {shown} is not")
    assert refusal(engine.load_adapter, "a", path) == f"adapter {shown} is not a path"
    for call in (session.save, engine.resume):
        assert refusal(call, path) == f"saved session {shown} is not a path"


def test_no_adapter_is_read_from_the_working_directory(engine, tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert refusal(engine.load_adapter, "a", "") == "adapter '' is not a path"


@pytest.mark.parametrize("path", ["/", ".", Path("..")], ids=str)
def test_a_session_is_not_saved_to_a_folder(session, path):
    assert refusal(session.save, path) == f"{path}: cannot save a session there: a folder"


def test_a_name_too_long_is_the_callers_mistake(engine, session, tmp_path):
    path = tmp_path / ("x" * 300)
    for call in (session.save, engine.resume):
        assert refusal(call, path) == f"{path}: File name too long"
    assert "is not a folder" in refusal(engine.load_adapter, "a", path)
    assert "no such file" in refusal(Engine.load, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_tokens", [-1, 4, 2**40, 3.0, None, "1", True], ids=repr)
def test_a_wrong_length_to_cut_back_to_is_named(session, n_tokens):
    assert refusal(session.truncate, n_tokens) == (
        f"n_tokens={n_tokens!r} is not a whole number in 0..3"
    )
    assert session.tokens == IDS


def test_a_numpy_length_is_a_length(session):
    session.truncate(np.int64(2))
    assert session.tokens == IDS[:2]


def test_a_closed_session_is_not_cut_back(session):
    session.close()
    with pytest.raises(EngineError, match=r"^the session is closed$"):
        session.truncate(0)


@pytest.mark.parametrize("activations", ["int8", "fp32"])
def test_an_adapter_too_large_for_float32_is_named_with_its_tensor(model, activations):
    with Engine.load(model, threads=1, shield="none", activations=activations) as engine:
        pairs = dict(random_adapter(engine.model, 4, 0).pairs)
        large = pairs["layers.1.up"]
        pairs["layers.1.up"] = LowRankPair(large.a, large.b, 1e300)
        for factor in (1.0, 1e30):
            with pytest.raises(
                InputError, match=r"^adapter 'big': layers\.1\.up: .* too large for"
            ):
                engine.add_adapter("big", AdapterWeights(pairs), scale=factor)
        assert engine.adapters == {}


def test_weights_that_do_not_fit_are_named_with_their_adapter(engine):
    pairs = dict(random_adapter(engine.model, 4, 0).pairs)
    wide = pairs["layers.0.q"]
    pairs["layers.0.q"] = LowRankPair(wide.b, wide.a, 1.0)
    with pytest.raises(InputError, match=r"^adapter 'odd': layers\.0\.q: A"):
        engine.add_adapter("odd", AdapterWeights(pairs))


@pytest.mark.parametrize("prompt", [None, 5, b"abc", {"a": 1}], ids=repr)
def test_what_is_no_prompt_is_refused_by_name(engine, prompt):
    expected = f"the prompt {prompt!a} is no text, list of messages or list of ids"
    assert refusal(engine.generate, prompt) == expected
    with Scheduler(engine) as scheduler:
        assert refusal(scheduler.submit, prompt) == expected


def test_a_timeout_that_is_no_number_is_refused_by_name(engine):
    with Scheduler(engine) as scheduler, scheduler.submit("hello", 2) as request:
        assert refusal(request.result, "x") == "timeout_s='x' is not a number of seconds"
        assert request.result(60)


def pair_of(model, a=None, b=None, scale=1.0):
    whole = random_adapter(model, 4, 1).pairs["layers.0.q"]
    return LowRankPair(whole.a if a is None else a, whole.b if b is None else b, scale)


def test_weights_of_a_wrong_kind_are_refused_by_name(engine):
    add, pair = engine.add_adapter, pair_of(engine.model)
    assert refusal(add, "w", {"layers.0.q": pair}) == "adapter 'w': weights is no AdapterWeights"
    for wrong, says in (
        (pair_of(engine.model, a=[[0.0]]), "A and B are not arrays"),
        (pair_of(engine.model, scale="1"), "the scale '1' is no number or not finite"),
    ):
        weights = AdapterWeights({"layers.0.q": wrong})
        assert refusal(add, "w", weights) == f"adapter 'w': layers.0.q: {says}"
    for layer in ("00", "\u0660"):
        weights = AdapterWeights({f"layers.{layer}.q": pair})
        assert "is not a linear layer of this model" in refusal(add, "w", weights)
    weights = AdapterWeights({"layers.0.q": pair})
    assert "is not 1 to 64 ASCII letters" in refusal(add, "\xe9", weights)
    assert add("w", weights, scale=np.float32(2)).scale == 2.0
    engine.unload_adapter("w")


def test_a_closed_session_takes_no_adapters(engine):
    session = engine.open_session()
    session.close()
    with pytest.raises(EngineError, match="the session is closed"):
        session.select(engine.sessions.select([]))
