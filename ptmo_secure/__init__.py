"""PTMO-Secure: private LLM inference on small devices.

    from ptmo_secure import Engine, HybridInferenceEngine

    with Engine.load("smollm2-135m", shield="seal") as engine:
        with HybridInferenceEngine(engine) as pipeline:  # starts the guard, and ends it
            print(pipeline.answer("What is Python?").text)

Names load on first use, so importing the package is quick and needs no native module.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ptmo_secure.bench import BenchmarkResult, run_bench
    from ptmo_secure.config import BenchConfig, GenerationConfig
    from ptmo_secure.engine.config import EngineConfig
    from ptmo_secure.engine.engine import Engine
    from ptmo_secure.engine.request import Request
    from ptmo_secure.engine.sampler import SamplingParams
    from ptmo_secure.engine.scheduler import Scheduler
    from ptmo_secure.errors import (
        CapacityError,
        CloudError,
        EgressRefusedError,
        EngineError,
        InputError,
        ModelFormatError,
        PtmoError,
        SecurityError,
        TeeDiedError,
    )
    from ptmo_secure.offload.benchmark import BenchmarkConfig, BenchmarkSuite
    from ptmo_secure.pipeline import HybridInferenceEngine
    from ptmo_secure.privacy.budget import BudgetLimits, PrivacyBudget
    from ptmo_secure.privacy.decompose import QueryDecomposer, Segment
    from ptmo_secure.privacy.manager import OffloadingDecision, PrivacyManager
    from ptmo_secure.privacy.sensitivity import SensitivityClassifier
    from ptmo_secure.types import Answer, Level, PrivateSpan, Route, Sensitivity, TraceStep

_HOME = {
    "Answer": "types",
    "BenchConfig": "config",
    "BenchmarkConfig": "offload.benchmark",
    "BenchmarkResult": "bench",
    "BenchmarkSuite": "offload.benchmark",
    "BudgetLimits": "privacy.budget",
    "CapacityError": "errors",
    "CloudError": "errors",
    "EgressRefusedError": "errors",
    "Engine": "engine.engine",
    "EngineConfig": "engine.config",
    "EngineError": "errors",
    "GenerationConfig": "config",
    "HybridInferenceEngine": "pipeline",
    "InputError": "errors",
    "Level": "types",
    "ModelFormatError": "errors",
    "OffloadingDecision": "privacy.manager",
    "PrivacyBudget": "privacy.budget",
    "PrivacyManager": "privacy.manager",
    "PrivateSpan": "types",
    "PtmoError": "errors",
    "QueryDecomposer": "privacy.decompose",
    "Request": "engine.request",
    "Route": "types",
    "SamplingParams": "engine.sampler",
    "Scheduler": "engine.scheduler",
    "SecurityError": "errors",
    "Segment": "privacy.decompose",
    "Sensitivity": "types",
    "SensitivityClassifier": "privacy.sensitivity",
    "TeeDiedError": "errors",
    "TraceStep": "types",
    "run_bench": "bench",
}

__all__ = [
    "Answer",
    "BenchConfig",
    "BenchmarkConfig",
    "BenchmarkResult",
    "BenchmarkSuite",
    "BudgetLimits",
    "CapacityError",
    "CloudError",
    "EgressRefusedError",
    "Engine",
    "EngineConfig",
    "EngineError",
    "GenerationConfig",
    "HybridInferenceEngine",
    "InputError",
    "Level",
    "ModelFormatError",
    "OffloadingDecision",
    "PrivacyBudget",
    "PrivacyManager",
    "PrivateSpan",
    "PtmoError",
    "QueryDecomposer",
    "Request",
    "Route",
    "SamplingParams",
    "Scheduler",
    "SecurityError",
    "Segment",
    "Sensitivity",
    "SensitivityClassifier",
    "TeeDiedError",
    "TraceStep",
    "__version__",
    "run_bench",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
