"""Token ids come as lists, arrays and tensors; what is no list of ids is refused by name."""

import numpy as np
import pytest

from ptmo_secure.engine.token_ids import checked_ids
from ptmo_secure.errors import InputError


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, ">i4"])
def test_arrays_of_whole_numbers_are_ids(dtype):
    assert checked_ids(np.array([3, 0, 250], dtype)) == [3, 0, 250]


def test_tensors_of_other_libraries_are_ids():
    torch = pytest.importorskip("torch")
    ids = checked_ids(torch.tensor([3, 0, 250]))
    assert ids == [3, 0, 250] and all(type(token) is int for token in ids)


def test_an_array_that_may_only_be_read_is_read():
    ids = np.frombuffer(np.arange(3, dtype=np.int64).tobytes(), np.int64)
    assert not ids.flags.writeable
    assert checked_ids(ids) == [0, 1, 2]


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (np.zeros((2, 2), np.int64), r"token_ids is a tensor of int64 \[2, 2\], not of ids"),
        (np.array([1, None]), "token_ids is a tensor of object"),
        (np.zeros(2, np.float32), r"token_ids is a tensor of float32 \[2\], not of ids"),
        (np.array([True, False]), "token_ids is a tensor of bool"),
        (np.array([1, -1]), "token id -1 is out of range"),
        (np.zeros(0, np.int64), "no tokens to run"),
        ([1, True], "not a list of whole numbers"),
        ([1.5], "not a list of whole numbers"),
        ([], "no tokens to run"),
        ([1 << 31], "token id 2147483648 is out of range"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(ids, why):
    with pytest.raises(InputError, match=why):
        checked_ids(ids)
