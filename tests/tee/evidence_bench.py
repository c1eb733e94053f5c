"""A device whose evidence a test writes, beside a verifier that knows it."""

import pytest
from tee_helpers import ROOT_KEY

from tee_sim.cose import sign1
from tee_sim.verify import EvidenceError, Verifier

NONCE = bytes(range(32))
MEASUREMENT = bytes(range(32))


def refusal(call, *args):
    """The name of the check that refused."""
    with pytest.raises(EvidenceError) as refused:
        call(*args)
    text = str(refused.value)
    assert text.startswith(f"{refused.value.check}: ") and "\n" not in text
    return refused.value.check


class Bench:
    """A device whose evidence a test writes, and a verifier that knows the device."""

    def __init__(self, generator, root=ROOT_KEY, **options):
        self.generator = generator
        self.root = root
        self.eddsa, self.es256 = generator.identity(root)
        self.evidence = generator.golden_evidence(root, NONCE, False)
        self.identity, self.ueid = self.evidence.identity, self.evidence.ueid
        self.verifier = Verifier([self.identity], [MEASUREMENT], **options)

    def token(self, **changed):
        return self.signed(self.evidence._replace(**changed).encode())

    def signed(self, payload):
        return sign1(self.eddsa, self.evidence.ueid, payload)

    def check(self, token, nonce=NONCE):
        return refusal(self.verifier.verify, token, nonce)
