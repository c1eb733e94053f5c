"""The attacker's page parser agrees with the engine's and refuses what is no dump."""

import numpy as np
import pytest

from ptmo_secure.attacks.kv import PageLayout, StolenMemory, read_sessions
from ptmo_secure.errors import InputError
from tests.attacks.synthetic import N_KV, ROWS, Source, make_dump, steal

SOURCE = Source()
IDS = np.arange(40, 90)  # four pages, the last one not full


@pytest.mark.parametrize("kv_dtype", ["int8", "int4", "fp16", "fp32"])
@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("layer", [0, 1])
def test_rows_equal_the_engine_dumps_own_reading(kv_dtype, which, layer):
    dump = make_dump(SOURCE.values(IDS), kv_dtype, padding=24)
    (rows,) = read_sessions(steal(dump), layer, which)
    values = rows.codes.astype(np.float32)
    if kv_dtype in ("int8", "int4"):
        values = values * rows.scales[:, :, None]
    np.testing.assert_array_equal(values, dump.rows(layer, which))
    assert rows.seq.tolist() == list(range(1, len(IDS) + 1))
    assert (rows.scales is None) == (kv_dtype not in ("int8", "int4"))


def test_pages_are_put_in_order_of_position():
    dump = make_dump(SOURCE.values(IDS), "fp32")
    size = dump.layout.page_bytes
    pages = [dump.pages[i : i + size] for i in range(0, len(dump.pages), size)]
    shuffled = StolenMemory(b"".join(pages[::-1]), PageLayout.of(dump.layout))
    np.testing.assert_array_equal(
        read_sessions(shuffled)[0].codes, read_sessions(steal(dump))[0].codes
    )


def test_the_stolen_layout_carries_no_address_or_other_field_of_the_engine():
    layout = PageLayout.of(make_dump(SOURCE.values(IDS), "int8").layout)
    assert set(layout.__dataclass_fields__) == {
        "n_layers",
        "n_kv_heads",
        "head_dim",
        "rows_per_page",
        "kv_dtype",
        "page_bytes",
    }


def damaged(**changes: object) -> StolenMemory:
    dump = make_dump(SOURCE.values(IDS), "int8")
    fields = {name: getattr(PageLayout.of(dump.layout), name) for name in PageLayout.__slots__}
    pages = changes.pop("pages", lambda raw: raw)(dump.pages)
    return StolenMemory(pages, PageLayout(**{**fields, **changes}))


def with_byte(position: int, value: int):
    return lambda raw: raw[:position] + bytes([value]) + raw[position + 1 :]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pages": lambda raw: raw[:-1]}, r"bytes is not a whole number of pages of \d+ bytes"),
        ({"pages": lambda raw: raw + b"x"}, "is not a whole number of pages"),
        ({"pages": with_byte(0, 0)}, "page 0 of the dump has magic"),
        ({"pages": with_byte(4, 9)}, "page 0 of the dump has version 9, not 2"),
        ({"pages": with_byte(6, 8)}, "page 0 of the dump has rows_per_page 8, not 16"),
        ({"pages": with_byte(20, ROWS + 1)}, "page 0 of the dump claims 17 rows"),
        ({"page_bytes": 100}, r"page_bytes is 100, but the layout needs \d+"),
        ({"kv_dtype": "int3"}, "kv_dtype 'int3' is not one of int8, int4, fp16, fp32"),
    ],
)
def test_a_malformed_dump_is_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        read_sessions(damaged(**changes))


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"layer 2 is not in 0\.\.1"):
        read_sessions(damaged(), layer=2)


def test_sessions_come_in_order_of_number_with_their_own_rows():
    late = make_dump(SOURCE.values(IDS), "fp32", session=9, first_seq=500)
    early = make_dump(SOURCE.values(IDS[:3]), "fp32", session=4)
    both = StolenMemory(late.pages + early.pages, PageLayout.of(late.layout))
    sessions = read_sessions(both)
    assert [(s.session, len(s.seq), int(s.seq[0])) for s in sessions] == [(4, 3, 1), (9, 50, 500)]
    assert sessions[0].codes.shape == (3, N_KV, 32)
