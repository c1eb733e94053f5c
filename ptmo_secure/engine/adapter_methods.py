"""What an engine offers to load and forget LoRA adapters."""

import os

from ptmo_secure.engine.adapter_store import AdapterInfo
from ptmo_secure.engine.adapters import AdapterWeights
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.model_config import LlamaConfig
from ptmo_secure.engine.sealed_source import read_any_adapter
from ptmo_secure.engine.session_pool import SessionPool


class AdapterMethods:
    """The part of `Engine` that is about adapters."""

    config: EngineConfig
    model: LlamaConfig
    sessions: SessionPool

    def load_adapter(
        self, name: str, path: str | os.PathLike[str], *, scale: float = 1.0
    ) -> AdapterInfo:
        """Load a LoRA adapter in PEFT's format under a name for `generate`.

        Args:
            name: 1 to 64 letters, digits, "_", "." or "-"; not one that is loaded already.
            path: a folder with adapter_config.json and adapter_model.safetensors, or what
                `ptmo model seal` made of it, for an engine with `tee_state`.
            scale: multiplies the adapter's own scale.

        Raises:
            InputError: a bad name, scale or path, a damaged file, or one for another model. Nothing
                is loaded.
            SecurityError: a sealed file was tampered with.
            EngineError: the TEE is gone, the engine is closed, or memory is short.
        """
        with self.sessions.lock:
            self.sessions.connect()
            link = self.sessions.tee
        weights = read_any_adapter(path, self.model, self.config, link)
        return self.add_adapter(name, weights, scale=scale)

    def add_adapter(self, name: str, weights: AdapterWeights, *, scale: float = 1.0) -> AdapterInfo:
        """Load an adapter from arrays; see `load_adapter`."""
        with self.sessions.lock:
            self.sessions.connect()
            return self.sessions.adapters.add(name, weights, scale, self.sessions.tee)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. A generation that is using it goes on with it.

        Raises:
            InputError: there is none of that name.
        """
        with self.sessions.lock:
            self.sessions.adapters.remove(name)

    @property
    def adapters(self) -> dict[str, AdapterInfo]:
        """What is loaded, by name."""
        with self.sessions.lock:
            return self.sessions.adapters.infos()
