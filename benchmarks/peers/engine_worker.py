"""Runs this engine for `compare_llamacpp.py` (protocol: peers/__init__.py), without a shield."""

from typing import Any

from json_lines import serve

import ptmo_secure
from ptmo_secure import Engine
from ptmo_secure.bench import measure_ids


class Worker:
    """The requests of the protocol."""

    engine: Engine

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load a model."""
        self.engine = Engine.load(
            request["model"],
            shield="none",
            threads=request["threads"],
            context_tokens=request["context_tokens"],
            kv_dtype=request["kv_dtype"],
        )
        return {"version": f"ptmo-secure {ptmo_secure.__version__}", "variants": ["only"]}

    def measure(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time a prompt and greedy decoding."""
        sample = measure_ids(self.engine, request["ids"], request["decode_tokens"])
        return {
            "prefill_s": sample.prefill_s,
            "decode_s": sample.decode_s,
            "tokens": list(sample.tokens),
        }


if __name__ == "__main__":
    worker = Worker()
    serve({"load": worker.load, "measure": worker.measure})
