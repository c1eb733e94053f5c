"""Tensors that pass between the engine and other libraries without a copy."""

import ctypes
import gc

import numpy as np
import pytest

from ptmo_secure.engine.device_sampling import choose_tokens
from ptmo_secure.engine.native_setup import cuda_module
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.errors import EngineError, InputError
from tests.engine.test_saved_session import IDS, MORE, load
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.fixture(scope="module")
def engine(model):
    with load(model, device="cuda", shield="seal") as engine:
        yield engine


def empty(*shape):
    return cuda_module().DeviceTensor(shape)


def to_device(values):
    return cuda_module().to_device(np.ascontiguousarray(values))


def vocab_of(engine):
    return engine.start_session().feed([1]).shape[1]


def test_logits_are_written_into_a_tensor_to_the_bits_of_feed(engine):
    expected = engine.start_session().feed(IDS, all_logits=True)
    out = empty(*expected.shape)
    session = engine.start_session()
    session.feed_into(out, IDS, all_logits=True)
    assert np.array_equal(out.numpy(), expected)
    assert session.tokens == IDS
    last = empty(1, expected.shape[1])
    engine.start_session().feed_into(last, IDS)
    assert np.array_equal(last.numpy(), expected[-1:])


def test_steps_into_one_tensor_are_graphs(engine):
    session, other = engine.open_session(), engine.open_session()
    out = empty(1, vocab_of(engine))
    decoder = session._host.decoder
    before = decoder.graph_launches
    for token in MORE:
        session.feed_into(out, [token])
        got = out.numpy()
        assert np.array_equal(got, other.feed([token]))
    assert decoder.graph_launches - before >= 2 * (len(MORE) - 1)  # each way's first is not


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_ids_may_be_a_tensor(engine, dtype):
    expected = engine.start_session().feed(IDS)
    session = engine.start_session()
    ids = np.array(IDS, dtype)
    assert np.array_equal(session.feed(ids), expected)
    if dtype == np.int32:  # what `to_device` makes
        again = engine.start_session()
        assert np.array_equal(again.feed(to_device(ids)), expected)
        assert again.tokens == IDS


class Producer:
    """Somebody else's tensor: ours, but for what `change` does to the fields of its DLTensor."""

    def __init__(self, tensor, change):
        self.tensor, self.change = tensor, change

    def __dlpack__(self, stream=None):
        capsule = self.tensor.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        self.change(DlTensor.from_address(pointer(capsule, b"dltensor")))
        return capsule

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


class DlTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("dims", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 4),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def without_its_first(fields):
    fields.byte_offset = 4
    fields.shape[0] -= 1


def test_a_slice_of_ids_is_read_where_it_begins(engine):
    expected = engine.start_session().feed(IDS[1:])
    ids = Producer(to_device(np.array(IDS, np.int32)), without_its_first)
    assert np.array_equal(engine.start_session().feed(ids), expected)


def test_a_tensor_whose_rows_do_not_follow_each_other_is_refused(engine):
    strides = (ctypes.c_int64 * 2)(1, 4)

    def transposed(fields):
        fields.strides = strides

    ids = Producer(to_device(np.zeros((3, 4), np.float32)), transposed)
    with pytest.raises(InputError, match="logits is not contiguous"):
        choose_tokens(ids, [SamplingParams()] * 3)


def test_a_producer_that_does_not_share_is_refused(engine):
    class Unwilling(Producer):
        def __dlpack__(self, stream=None):
            raise BufferError("part of a gradient")

    class Nowhere(Producer):
        def __dlpack_device__(self):
            return "cuda"

    out = empty(1, vocab_of(engine))
    session = engine.start_session()
    for producer, why in ((Unwilling, "logits is not shared: part of a"), (Nowhere, "no device")):
        with pytest.raises(InputError, match=why):
            session.feed_into(producer(out, None), [1])
        with pytest.raises(InputError, match="token_ids"):
            session.feed(producer(to_device(np.array([1], np.int32)), None))
    assert session.tokens == []


def test_a_tensor_of_ours_begins_as_zeros_and_has_a_sane_shape():
    assert not empty(3, 5).numpy().any()
    assert empty(0, 5).numpy().shape == (0, 5)
    for shape in ([2**62, 4], [-1], [2**40, 2**40]):
        with pytest.raises(ValueError, match="shape is out of range"):
            cuda_module().DeviceTensor(shape)
    with pytest.raises(BufferError, match="never copied"):
        empty(1).__dlpack__(copy=True)
    with pytest.raises(BufferError, match="never copied"):
        empty(1).__dlpack__(dl_device=(1, 0))
    assert empty(1).__dlpack__(stream=1, max_version=(1, 0), dl_device=(2, 0), copy=False)


def test_a_tensor_outlives_the_name_it_was_given(engine):
    out = empty(1, vocab_of(engine))
    capsule = out.__dlpack__()
    engine.start_session().feed_into(out, IDS)
    expected = out.numpy()
    del out

    class Held:  # a consumer that knows the protocol alone
        def __dlpack__(self, stream=None):
            assert stream is None or stream > 2
            return capsule

        def __dlpack_device__(self):
            return (2, 0)

    gc.collect()
    assert choose_tokens(Held(), [SamplingParams()]) == [int(expected.argmax())]


def test_tensors_that_do_not_fit_are_refused_and_change_nothing(engine):
    vocab = vocab_of(engine)
    session = engine.start_session()
    session.feed(IDS)
    for bad, why in (
        (empty(2, vocab), r"logits have shape \[2, "),
        (empty(1, vocab - 1), "logits have shape"),
        (empty(vocab), "logits has 1 dimensions, not 2"),
        (to_device(np.zeros((1, vocab), np.int32)), "logits does not hold float32 values"),
        (np.zeros((1, vocab), np.float32), "logits is not on the engine's CUDA device"),
        ([[0.0] * vocab], "logits is no tensor that DLPack knows"),
    ):
        with pytest.raises(InputError, match=why):
            session.feed_into(bad, [1])
        assert session.tokens == IDS
    for bad, why in (
        (to_device(np.zeros(3, np.float32)), "token_ids does not hold int32 or int64 values"),
        (to_device(np.zeros((3, 1), np.int32)), "token_ids has 2 dimensions, not 1"),
        (np.zeros(3, np.float32), "not of ids"),
        (to_device(np.full(3, -1, np.int32)), "token id -1"),
    ):
        with pytest.raises(InputError, match=why):
            session.feed(bad)
        assert session.tokens == IDS
    session.feed([1])


def test_the_cpu_engine_writes_into_no_tensor(model):
    with load(model, shield="none") as engine:
        session = engine.start_session()
        with pytest.raises(InputError, match="device='cuda' alone"):
            session.feed_into(empty(1, 256), [1])
        assert session.tokens == []


def test_tokens_are_chosen_on_the_device():
    rng = np.random.default_rng(5)
    values = rng.normal(0, 3, (4, 1000)).astype(np.float32)
    logits = to_device(values)
    greedy = [SamplingParams()] * 4
    assert choose_tokens(logits, greedy) == values.argmax(1).tolist()
    hot = SamplingParams(temperature=0.7, top_k=3)
    seen = np.array(
        [choose_tokens(logits, [hot] * 4, np.random.default_rng(i)) for i in range(200)]
    )
    for row in range(4):
        best = np.argsort(-values[row])[:3]
        weights = np.exp(values[row][best] / 0.7)
        share = [(seen[:, row] == token).mean() for token in best]
        assert np.isin(seen[:, row], best).all()
        assert np.allclose(share, weights / weights.sum(), atol=0.13)  # 3.7 deviations of 200 draws
    with pytest.raises(InputError, match="repetition_penalty"):
        choose_tokens(logits, [SamplingParams(repetition_penalty=1.1)] * 4)
    with pytest.raises(InputError, match="logits have 4 rows, draws are 1"):
        choose_tokens(logits, [hot])
    values[2, 5] = np.nan
    with pytest.raises(EngineError, match="not finite"):
        choose_tokens(to_device(values), greedy)


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_other_libraries_share_the_memory(engine, library):
    module = pytest.importorskip(library)
    if library == "torch" and not module.cuda.is_available():
        pytest.skip("this torch sees no CUDA device")
    ids = np.array(IDS)
    expected = engine.start_session().feed(IDS)
    out = empty(1, expected.shape[1])
    view = module.from_dlpack(out)
    engine.start_session().feed_into(out, IDS)
    as_numpy = (lambda t: t.cpu().numpy()) if library == "torch" else module.asnumpy
    assert np.array_equal(as_numpy(view), expected)
    device_ids = module.asarray(ids) if library == "cupy" else module.tensor(ids, device="cuda")
    own = view * 0 - 1
    engine.start_session().feed_into(own, device_ids)
    assert np.array_equal(as_numpy(own), expected)
    expected = engine.start_session().feed(IDS[1:])
    assert np.array_equal(engine.start_session().feed(device_ids[1:]), expected)
