"""The attacks on a KV cache, on pages in a device's memory: what each shield withstands there."""

import numpy as np
import pytest

from ptmo_secure.attacks.kv import PublicModel, capture_prompts, default_attacks, read_sessions, run
from ptmo_secure.engine.engine import Engine
from tests.attacks.test_kv_real_model import MODEL, best, source  # noqa: F401 - a fixture

# The processor's own part, the longest, takes many minutes on an Orin.
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]

CACHES = ("int8", "int4")


def open_on_device(cell):
    restore = {} if cell.restore is None else {"restore": cell.restore}
    return Engine.load(MODEL, device="cuda", shield=cell.shield, kv_dtype=cell.kv_dtype, **restore)


@pytest.fixture(scope="module", params=CACHES)
def rows(request, source):  # noqa: F811
    return run(open_on_device, PublicModel(source), kv_dtypes=[request.param])


def test_an_unshielded_cache_is_read(rows):
    assert best(rows, "none").top1 >= 0.99


@pytest.mark.parametrize("restore", ["folded", "tee"])
def test_a_permuted_cache_is_read_by_sorting(rows, restore):
    mine = {r.attack: r for r in rows if (r.shield, r.restore) == ("permute", restore)}
    assert mine["layer0_dictionary"].top1 < 0.01
    assert mine["layer0_sorted"].top1 >= 0.99


@pytest.mark.parametrize("shield", ["seal", "permute+seal"])
def test_no_attack_reads_a_sealed_cache(rows, shield):
    mine = [r for r in rows if r.shield == shield]
    assert [r.attack for r in mine] == [a.name for a in default_attacks() if a.applies_to(shield)]
    for row in mine:
        assert row.ci95[1] < 0.01, row.attack


def test_equal_prompts_in_two_sealed_sessions_share_no_ciphertext(source):  # noqa: F811
    with Engine.load(MODEL, device="cuda", shield="seal") as engine:
        captured = capture_prompts(engine, ["The very same text."] * 3)
    codes = [read_sessions(memory)[0].codes for memory in captured.stolen]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(codes[left] == codes[right]) < 0.01  # independent bytes agree in 1 of 256
