"""The native objects that the benchmark suites time: sizes, inputs, refusals. No times."""

import mmap

import pytest

from ptmo_secure import _native

LAYERS, HEADS, KV_HEADS, DIM = 2, 4, 2, 32


def pages(kv_type: _native.KvType = _native.KvType.int8) -> _native.PageArena:
    return _native.PageArena(_native.PageLayout(LAYERS, KV_HEADS, DIM, 16, kv_type), 4)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("kind", "group", "bytes_per_panel"),
    [
        ("int4", 32, 4 * (256 + 64)),
        ("int4", 64, 2 * (512 + 64)),
        ("int4", 128, 1024 + 64),
        ("int4-symmetric", 32, 4 * (256 + 32)),
        ("int4-symmetric", 128, 1024 + 32),
        ("int8", 32, 4 * (512 + 32)),
    ],
)
def test_a_call_reads_one_packed_matrix_and_the_rotation_holds_enough_of_them(
    kind: str, group: int, bytes_per_panel: int, bits: int
) -> None:
    bench = _native.MatmulBench(
        type=kind,
        rows=40,  # three panels of 16
        cols=128,
        group=group,
        activation_bits=bits,
        tokens=3,
        threads=2,
        working_set_bytes=100_000,
    )
    assert bench.call_bytes == 3 * bytes_per_panel
    assert 100_000 <= bench.working_set_bytes < 100_000 + bench.call_bytes
    assert bench.working_set_bytes % bench.call_bytes == 0
    bench.run(50)


def test_a_matrix_that_must_stay_in_the_cache_is_alone() -> None:
    bench = _native.MatmulBench(
        **{"type": "int4", "rows": 16, "cols": 32, "group": 32, "activation_bits": 8},
        **{"tokens": 1, "threads": 1, "working_set_bytes": 0},
    )
    assert bench.working_set_bytes == bench.call_bytes == 320


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"type": "int3"}, "type=int3"),
        ({"group": 48}, "group=48"),
        ({"cols": 100}, "cols=100"),
        ({"tokens": 0}, "tokens=0"),
        ({"threads": 0}, "threads=0"),
        ({"activation_bits": 12}, "activation_bits=12"),
    ],
)
def test_a_matrix_of_a_wrong_shape_is_refused(change: dict[str, object], text: str) -> None:
    good = {"type": "int4", "rows": 16, "cols": 128, "group": 32, "tokens": 1, "threads": 1}
    good["activation_bits"] = 8
    with pytest.raises(ValueError, match=text):
        _native.MatmulBench(**{**good, "working_set_bytes": 0, **change})


@pytest.mark.parametrize(
    ("rank", "bytes_per_panel"),
    [(1, 64 + 32), (8, 2 * 64 + 32), (16, 4 * 64 + 32), (20, 5 * 64 + 2 * 32)],
)
def test_a_low_rank_call_reads_one_packed_factor(rank: int, bytes_per_panel: int) -> None:
    bench = _native.LowRankBench(rows=40, rank=rank, tokens=3, threads=2, working_set_bytes=9_000)
    assert bench.call_bytes == 3 * bytes_per_panel
    assert 9_000 <= bench.working_set_bytes < 9_000 + bench.call_bytes
    bench.run(50)


def test_a_low_rank_factor_of_no_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="rank=0"):
        _native.LowRankBench(rows=40, rank=0, tokens=1, threads=1, working_set_bytes=0)


@pytest.mark.parametrize(
    ("kernel", "bytes_per_element"),
    [
        *(("quantize_blocks", 5), ("rms_norm", 12), ("swiglu", 12), ("add", 12), ("cos_sin", 12)),
        *(("rope", 12), ("quantize_row_i8", 5), ("quantize_row_i16", 6), ("to_f16", 6)),
        *(("geglu", 12), ("head_rms_norm", 8), ("quantize_row_i4", 4.5)),
        ("quantize_blocks_16", 6),
    ],
)
def test_every_elementwise_kernel_can_be_timed(kernel: str, bytes_per_element: float) -> None:
    bench = _native.VectorBench(kernel, 96)
    bench.run(3)
    assert bench.call_bytes == bytes_per_element * 96


@pytest.mark.parametrize(
    ("kernel", "bytes_per_row"),
    [("unpack_rows_i4", 96 + 48), ("fold_partials", 3 * 4 * (32 + 96))],
)
def test_kernels_of_several_rows_get_16_of_them(kernel: str, bytes_per_row: int) -> None:
    bench = _native.VectorBench(kernel, 96)
    bench.run(3)
    assert bench.call_bytes == 16 * bytes_per_row


def test_an_unknown_kernel_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="softsign"):
        _native.VectorBench("softsign", 96)


@pytest.mark.parametrize("kv_type", ["int8", "int4", "fp16", "fp32"])
def test_attention_reads_the_whole_cache_once_a_call(kv_type: str) -> None:
    arena = pages(getattr(_native.KvType, kv_type))
    session = _native.KvSession(arena, 1)
    bench = _native.AttentionBench(session, HEADS, 40, 1, 2)
    bench.run(2)
    element = {"int8": 1, "int4": 0.5, "fp16": 2, "fp32": 4}[kv_type]
    row = 2 * DIM * element + (8 if kv_type in ("int8", "int4") else 0)
    assert session.length == 40
    assert bench.call_bytes == 40 * LAYERS * KV_HEADS * row


def test_attention_over_a_sealed_cache_holds_no_plain_row() -> None:
    arena, secrets = pages(), _native.SecretArena(4096, False)
    slot = secrets.take_slot()
    with mmap.mmap(secrets.fd, secrets.size) as view:
        view[slot : slot + 16] = bytes(range(1, 17))
    session = _native.KvSession(arena, 1, 1, secrets, slot)
    plain_arena = pages()
    plain = _native.KvSession(plain_arena, 1)
    for kv in (session, plain):
        _native.AttentionBench(kv, HEADS, 40, 8, 1).run(1)
    layout = _native.PageLayout(LAYERS, KV_HEADS, DIM, 16, _native.KvType.int8)
    row = plain_arena.dump()[layout.data_offset : layout.data_offset + DIM]
    assert any(row)
    assert row not in arena.dump()


def test_attention_needs_an_empty_session_and_whole_groups_of_heads() -> None:
    arena = pages()
    session = _native.KvSession(arena, 1)
    with pytest.raises(ValueError, match="tokens=9"):
        _native.AttentionBench(session, HEADS, 8, 9, 1)
    with pytest.raises(ValueError, match="n_heads=5"):
        _native.AttentionBench(session, 5, 8, 1, 1)
    session.append(1)
    with pytest.raises(ValueError, match="1 rows already"):
        _native.AttentionBench(session, HEADS, 8, 1, 1)


@pytest.mark.parametrize("level", _native.aes_levels())
def test_the_keystream_runs_over_whole_tiles(level: str) -> None:
    bench = _native.KeystreamBench(32, 64, level)
    bench.run(2)
    assert bench.call_bytes == 32 * (2 * 64 + 8)


def test_a_keystream_without_the_instructions_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="level=portable"):
        _native.KeystreamBench(32, 64, "portable")


def test_a_bandwidth_is_a_positive_number_of_bytes_per_second() -> None:
    assert _native.read_bandwidth(1 << 16, 2, 1) > 1e6


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((100, 1, 1), "bytes=100"), ((4096, 0, 1), "threads=0"), ((4096, 1, 0), "passes=0")],
)
def test_a_bandwidth_of_nothing_is_refused(arguments: tuple[int, int, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _native.read_bandwidth(*arguments)
