"""What a host keeps that goes around the store: ciphertext of the guard's own, which opens again.

This is no protection: it measures the limit that `docs/tee.md` ("Vaults at rest") tells, and why a
word of the core's would not close it.
"""

import pytest

from ptmo_secure.privacy.kept_vaults import KeptVaults
from ptmo_secure.sealed.store import SealedStore
from tee_sim.client import ResultCode, TeeError

TEXT = "My name is Quirin Zaphod, mail quirin.z@mail.com"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "device"


def test_ciphertext_from_before_a_value_was_forgotten_opens_only_in_a_guard_that_did_not_forget_it(
    folder,
):
    with KeptVaults.open(folder) as kept, kept.session("letter") as vault:
        shown = vault.mask(TEXT).text
        assert shown == "My name is [PERSON_1], mail [EMAIL_1]"
        old = vault.save()  # a host keeps this for itself
        kept.keep("letter", vault)
        assert vault.forget("[EMAIL_1]") == 1
        kept.keep("letter", vault)
        vault.close()
        with pytest.raises(TeeError) as error:
            kept._guard.load_vault(old)
        assert error.value.code == ResultCode.ROLLED_BACK
    with KeptVaults.open(folder) as kept:  # another guard process with the same key
        with kept.session("letter") as vault:
            assert vault.unmask(shown) == "My name is Quirin Zaphod, mail [EMAIL_1]"
        with kept._guard.load_vault(old) as vault:
            assert vault.unmask(shown) == TEXT


def test_the_core_would_call_that_ciphertext_new_since_its_host_chooses_what_it_seals(folder):
    with KeptVaults.open(folder) as kept, kept.session("letter") as vault:
        vault.mask(TEXT)
        old = vault.save()
        vault.forget("[EMAIL_1]")
        kept.keep("letter", vault)
    with SealedStore.open(folder) as store:
        (place,) = (name for name in store.names() if name.startswith("vault-"))
        before, _, newest = store.get(place).partition(b"\n")
        assert newest != old
        store.put(place, before + b"\n" + old)
        assert store.get(place) == before + b"\n" + old  # the newest version, by the counter
    with KeptVaults.open(folder) as kept, kept.session("letter") as vault:
        assert vault.unmask("[EMAIL_1]") == "quirin.z@mail.com"
