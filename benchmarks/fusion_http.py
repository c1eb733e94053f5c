"""Fusion with a server on this machine in the cloud's place: what it costs in requests.

The device decodes continuations of public texts; the cloud drafts them over HTTP, through the
client, egress and its guard, by /completions with 20 log-probabilities. For llama.cpp's server:

    make bench-peers; ptmo model pull gemma3-270m
    .venv-peers/bin/python -m llama_cpp.server --model FILE --logits_all True --port 8766
    python benchmarks/fusion_http.py --url http://127.0.0.1:8766/v1 --json > http.json
"""

import tempfile
from pathlib import Path

from fusion.answers import continuations, look_ahead
from fusion.report import parser, publish
from fusion.texts import documents
from script import run

from ptmo_secure.cloud.client import CloudClient
from ptmo_secure.cloud.egress import Egress
from ptmo_secure.cloud.egress_log import EgressLog
from ptmo_secure.cloud.fusion import EntropyWeight
from ptmo_secure.cloud.providers import provider_at
from ptmo_secure.config import at_least
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import InputError
from tee_sim.client import TeeClient

BEGUN_BYTES = 600  # a text to go on with has more


def measure(model: str, url: str, texts: list[str], tokens: int) -> list[dict[str, object]]:
    """One row for each length of draft and each margin."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine.load(model, shield="none", threads=1, context_tokens=1024) as device,
        TeeClient.launch("guard") as guard,
    ):
        egress = Egress(guard, EgressLog(Path(folder)))
        with CloudClient(provider_at(url), egress=egress) as cloud:
            # The texts are public and nothing was masked, so no vault stands behind the clearance
            with egress.clearance(None, "benchmark"):
                tasks = continuations(device, texts)
                return look_ahead(device, cloud, tasks, EntropyWeight(), tokens)


def main(arguments: list[str]) -> int:
    """Measure, and print a line a row or JSON."""
    line = parser("Fusion with a server on this machine.")
    line.add_argument("--url", required=True, help="of the server, up to and with /v1")
    given = line.parse_args(arguments)
    at_least("tokens", given.tokens, 1)
    texts = documents(given.text)[: at_least("documents", given.documents, 0) or None]
    begun = [text for text in texts if len(text) > BEGUN_BYTES]
    if not begun:
        raise InputError(f"{given.text}: no document has more than {BEGUN_BYTES} characters")
    settings = {"model": given.model, "url": given.url, "text": given.text.name}
    publish(
        __file__,
        arguments,
        settings,
        given.json,
        lambda: measure(given.model, given.url, begun, given.tokens),
    )
    return 0


if __name__ == "__main__":
    run(main)
