"""A known weakness of `permute`: the rotary frequencies in the engine's memory tell their order.

RoPE turns each pair of a permuted row by that pair's own frequency, so the engine holds every
layer's frequencies in permuted order. The model's frequencies are public and all differ: looking
each up gives the permutation of the pairs, without a key and without a weight.
"""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from memory_scan import readable_mappings
from tee_helpers import ROOT_KEY, permutations

from ptmo_secure.engine import registry
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.errors import InputError
from tee_sim.layout import KvLayout
from tests.tiny_models import make_tiny_model

CHECKOUT = Path(__file__).resolve().parents[2]
ENGINE_PROGRAM = """
import sys
from ptmo_secure import Engine
path, shield, root_key = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
with Engine.load(path, shield=shield, threads=1, tee_debug_root_key=root_key) as engine:
    engine.forward([1, 2, 3])
    tee = engine.sessions.tee
    print(tee.client.model_epoch(tee._model) if "permute" in shield else 0, flush=True)
    sys.stdin.readline()
"""


def tables_in(data, frequencies, heads):
    """Orders of the public frequencies that stand in memory, a whole layer's heads together.

    Returns:
        {offset: n_kv_heads tuples of indices}; the model's own order is no finding.
    """
    words = np.frombuffer(data, "<f4", count=len(data) // 4)
    half, plain = len(frequencies), tuple(range(len(frequencies)))
    place = {value: j for j, value in enumerate(frequencies.tolist())}
    found = {}
    for hit in np.flatnonzero(words == frequencies[-1]):
        for start in range(max(0, hit - half + 1), hit + 1):
            rows = words[start : start + heads * half].tolist()
            orders = tuple(
                tuple(place.get(value, -1) for value in rows[at : at + half])
                for at in range(0, len(rows), half)
            )
            if len(orders) == heads and all(tuple(sorted(order)) == plain for order in orders):
                found[4 * start] = orders
    return {at: orders for at, orders in found.items() if set(orders) != {plain}}


def by_layer(pointers, n_layers):
    """Tables in the order of the layers, which lie in an array: at one distance of each other.

    Args:
        pointers: {address of a pointer: the table it points at}.
        n_layers: as many tables as the array points at.
    """
    for first, second in itertools.permutations(sorted(pointers), 2):
        places = [first + i * (second - first) for i in range(n_layers)]
        tables = [pointers[place] for place in places if place in pointers]
        if second > first and len(set(tables)) == n_layers:
            return tables
    return []


def attack(path, shield):
    """Read an engine's memory, knowing the public model file alone.

    Returns:
        What it takes for each layer's pair permutations, and (for the judge) the true epoch.
    """
    with ModelSource(path) as source:
        frequencies, c = source.inv_freq.astype("<f4"), source.config
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE_PROGRAM, str(path), shield, ROOT_KEY.hex()],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        epoch = int(process.stdout.readline())
        memory = [(at, data) for _, at, data in readable_mappings(process.pid)]
    finally:
        process.communicate("\n", timeout=60)
    tables = {
        base + offset: orders
        for base, data in memory
        for offset, orders in tables_in(data, frequencies, c.n_kv_heads).items()
    }
    addresses = np.array(sorted(tables), dtype="<u8")
    pointers = {}
    for base, data in memory:
        words = np.frombuffer(data, "<u8", count=len(data) // 8)
        for at in np.flatnonzero(np.isin(words, addresses)).tolist():
            pointers[base + 8 * at] = tables[int(words[at])]
    return by_layer(pointers, c.n_layers), epoch


def pair_permutations(path, epoch):
    """Each layer's pair permutations, derived from the root key: what the attack should find."""
    with ModelSource(path) as source:
        c = source.config
    dim = c.head_dim
    layout = KvLayout(c.n_layers, c.n_heads, c.n_kv_heads, dim, dim, min(dim, 32))
    return [
        tuple(tuple(pairs) for pairs, _ in permutations(layout, epoch, layer))
        for layer in range(c.n_layers)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), n_layers=4, head_dim=32).path


@pytest.mark.parametrize("shield", ["permute", "permute+seal"])
def test_permuted_frequencies_in_memory_give_every_rotary_pair_away(model, shield):
    found, epoch = attack(model, shield)
    truth = pair_permutations(model, epoch)
    assert np.shape(found) == (4, 2, 16)  # layers, KV heads, pairs
    assert np.mean(np.equal(found, truth)) == 1.0  # the share of pairs recovered


def test_they_do_so_for_the_default_model():
    try:
        path = registry.resolve("smollm2-135m")
    except InputError:
        pytest.skip("smollm2-135m is not pulled (ptmo model pull smollm2-135m)")
    found, epoch = attack(path, "permute")
    assert np.shape(found) == (30, 3, 32)  # 2,880 pairs
    assert np.mean(np.equal(found, pair_permutations(path, epoch))) == 1.0


def test_without_permute_there_is_no_order_to_find(model):
    assert attack(model, "seal")[0] == []
