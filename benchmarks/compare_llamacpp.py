"""This engine beside llama.cpp: the same GGUF files, threads, prompts and KV type, in turn.

Both run in processes of their own, one waiting while the other is measured; rounds go A B A B, and
a ratio is the median of the rounds' ratios. Decoding starts after a prompt of 16 tokens and is
greedy on both sides; prefill runs 512 tokens and makes the logits of the last. llama.cpp runs with
and without flash attention first, and with the faster of the two in the rounds.

    python benchmarks/compare_llamacpp.py --json > comparison.json

llama.cpp comes from `make bench-peers`; --peer-python or PTMO_PEERS_PYTHON names another Python
that has llama_cpp and numpy.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.models import KINDS, Say, context_limit, model_files, peer_python, sample_ids
from peers.worker import Worker
from rounds import ROUNDS, Paired, compare, interleave
from script import (
    MODEL_HELP,
    PEER_PYTHON_HELP,
    ArgumentParser,
    command_line,
    run,
    thread_count,
)

from ptmo_secure.bench import prompt_ids
from ptmo_secure.cli import output
from ptmo_secure.config import (
    DEFAULT_MODEL,
    at_least,
    at_most,
    choice,
    choices,
    whole_numbers,
)
from ptmo_secure.engine.config import MAX_THREADS
from ptmo_secure.errors import InputError
from ptmo_secure.results import envelope

METRICS = ("decode", "prefill")
KV_TYPES = ("int8", "fp16", "fp32")  # those that both engines have
KV_TYPE = "fp16"
THREADS = (1, 2)
DECODE_PROMPT_TOKENS = 16
DECODE_TOKENS = 128
PREFILL_TOKENS = 512
VARIANT_ROUNDS = 2
IDLE_CPU_LIMIT = 0.02  # of a core: more than that, and the one that waits disturbs the other


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared. The fields go into the result."""

    peer_python: Path
    model: str = DEFAULT_MODEL
    kinds: tuple[str, ...] = KINDS
    metrics: tuple[str, ...] = METRICS
    threads: tuple[int, ...] = THREADS
    kv_dtype: str = KV_TYPE
    rounds: int = ROUNDS
    decode_prompt_tokens: int = DECODE_PROMPT_TOKENS
    decode_tokens: int = DECODE_TOKENS
    prefill_tokens: int = PREFILL_TOKENS

    @property
    def context_tokens(self) -> int:
        """Context that both are loaded with."""
        longest = max(self.prefill_tokens, self.decode_prompt_tokens + self.decode_tokens)
        return -(-longest // 256) * 256


@dataclass(frozen=True, slots=True)
class Row:
    """One ratio. The fields are the keys of the JSON."""

    metric: str  # "decode_q4_1": tokens per second
    threads: int
    ours: float
    peer: float
    ratio: float  # median of the rounds' ratios
    peer_variant: str
    ours_rounds: tuple[float, ...]
    peer_rounds: tuple[float, ...]


@dataclass(slots=True)
class Comparison:
    """All ratios, and what is worth knowing about how they came to be."""

    rows: list[Row] = field(default_factory=list)
    versions: tuple[str, ...] = ()
    idle_cpu_share: float = 0.0  # the worst of all turns
    equal_tokens: dict[str, int] = field(default_factory=dict)  # of the first greedy decoding


class Pair:
    """This engine and the peer with one model and one thread count."""

    def __init__(self, ours: Worker, peer: Worker, options: Options, ids: Sequence[int]) -> None:
        """Both must have loaded."""
        self.ours, self.peer = ours, peer
        self.options = options
        self.prompts = {
            "decode": prompt_ids(ids, options.decode_prompt_tokens),
            "prefill": prompt_ids(ids, options.prefill_tokens),
        }
        self.idle_cpu_share = 0.0

    def rate(self, worker: Worker, metric: str, variant: str) -> float:
        """Tokens per second of one turn."""
        other = self.peer if worker is self.ours else self.ours
        before = other.cpu_seconds()
        prompt = self.prompts[metric]
        tokens = self.options.decode_tokens if metric == "decode" else 0
        taken = worker.measure(prompt, tokens, variant)
        prefill_s, decode_s = float(taken["prefill_s"]), float(taken["decode_s"])
        share = (other.cpu_seconds() - before) / max(prefill_s + decode_s, 0.1)
        self.idle_cpu_share = max(self.idle_cpu_share, share)
        return tokens / decode_s if metric == "decode" else len(prompt) / prefill_s

    def equal_tokens(self) -> int:
        """Tokens at the start of a greedy decoding that are the same; warms both up."""
        made = [
            worker.measure(self.prompts["decode"], self.options.decode_tokens, worker.variants[0])
            for worker in (self.ours, self.peer)
        ]
        pairs = zip(made[0]["tokens"], made[1]["tokens"], strict=True)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), self.options.decode_tokens)

    def faster_variant(self, metric: str) -> str:
        """The way of running the peer that is the faster at this."""
        sides = {
            name: lambda name=name: self.rate(self.peer, metric, name)
            for name in self.peer.variants
        }
        rates = interleave(sides, VARIANT_ROUNDS)
        return max(rates, key=lambda name: statistics.median(rates[name]))

    def compare(self, metric: str, variant: str) -> Paired:
        """Rounds of both, in turn."""
        return compare(
            lambda: self.rate(self.ours, metric, self.ours.variants[0]),
            lambda: self.rate(self.peer, metric, variant),
            self.options.rounds,
        )


def compare_all(options: Options, say: Say) -> Comparison:
    """Measure every file at every thread count.

    Raises:
        InputError: the model is not here, is no model that this engine runs, or has too short a
            context.
        EngineError: a worker failed.
    """
    result = Comparison()
    source, files = model_files(options.model, options.kinds, say)
    limit = context_limit(source)
    if options.context_tokens > limit:
        raise InputError(
            f"prefill-tokens {options.prefill_tokens} and decode-tokens {options.decode_tokens} "
            f"need a context of {options.context_tokens}, the model has {limit}"
        )
    ids = sample_ids(source)
    for kind, path in files.items():
        for threads in options.threads:
            label = f"{kind}, {thread_count(threads)}"
            say(f"{label}: loading")
            with (
                Worker("this engine", sys.executable, "engine_worker.py") as ours,
                Worker("llama.cpp", options.peer_python, "llamacpp_worker.py") as peer,
            ):
                for worker in (ours, peer):
                    worker.load(
                        path,
                        threads=threads,
                        context_tokens=options.context_tokens,
                        kv_dtype=options.kv_dtype,
                    )
                result.versions = (ours.version, peer.version)
                pair = Pair(ours, peer, options, ids)
                result.equal_tokens[kind] = pair.equal_tokens()
                for metric in options.metrics:
                    variant = pair.faster_variant(metric)
                    row = _row(metric, kind, threads, variant, pair.compare(metric, variant))
                    say(f"{label}: {describe(row)}")
                    result.rows.append(row)
            result.idle_cpu_share = max(result.idle_cpu_share, pair.idle_cpu_share)
    if result.idle_cpu_share > IDLE_CPU_LIMIT:
        say(f"warning: the one that waited used {result.idle_cpu_share:.0%} of a core")
    return result


def _row(metric: str, kind: str, threads: int, variant: str, found: Paired) -> Row:
    return Row(
        metric=f"{metric}_{kind}",
        threads=threads,
        ours=statistics.median(found.a),
        peer=statistics.median(found.b),
        ratio=found.ratio,
        peer_variant=variant,
        ours_rounds=found.a,
        peer_rounds=found.b,
    )


def describe(row: Row) -> str:
    """One row for people."""
    return (
        f"{row.metric} {row.ours:.0f} / {row.peer:.0f} tokens/s = {row.ratio:.2f} "
        f"(llama.cpp {row.peer_variant})"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        description="Speed of this engine beside llama.cpp's, in turn, on the same files, threads, "
        "prompts and KV type.",
        epilog="llama.cpp comes from make bench-peers. Exits 0 when all was measured (no floor is "
        "judged here: check_ratios.py does that), 1 when the run failed, 2 on bad input or without "
        "llama.cpp, 130 when interrupted.",
    )

    def option(name: str, metavar: str, text: str, default: str | int) -> None:
        made.add_argument(
            f"--{name}",
            type=type(default),
            default=default,
            metavar=metavar,
            help=f"{text} [default: %(default)s]",
        )

    option("model", "NAME|FILE", MODEL_HELP, DEFAULT_MODEL)
    kinds = f"any of {','.join(KINDS)}: quantised from the model where it has another kind"
    option("kinds", "LIST", kinds, ",".join(KINDS))
    option("threads", "LIST", f"thread counts, 1 to {MAX_THREADS}", ",".join(map(str, THREADS)))
    option("kv-dtype", "TYPE", f"KV cache element, one of {', '.join(KV_TYPES)}", KV_TYPE)
    option("rounds", "N", "interleaved rounds, 1 or more; medians count", ROUNDS)
    decode = f"tokens decoded after a prompt of {DECODE_PROMPT_TOKENS}, 1 or more"
    option("decode-tokens", "N", decode, DECODE_TOKENS)
    option("prefill-tokens", "N", "tokens of the prefilled prompt, 1 or more", PREFILL_TOKENS)
    made.add_argument("--peer-python", metavar="PATH", help=PEER_PYTHON_HELP)
    made.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return made


def _checked(given: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Options` that the command line gives, but for the peer."""
    threads = whole_numbers("threads", given.threads)
    return {
        "model": given.model,
        "kinds": choices("kind", given.kinds, KINDS),
        "threads": tuple(at_most("threads", count, MAX_THREADS) for count in threads),
        "kv_dtype": choice("kv-dtype", given.kv_dtype, KV_TYPES),
        "rounds": at_least("rounds", given.rounds, 1),
        "decode_tokens": at_least("decode-tokens", given.decode_tokens, 1),
        "prefill_tokens": at_least("prefill-tokens", given.prefill_tokens, 1),
    }


def main(arguments: list[str]) -> int:
    """Compare, and print a table or the JSON."""
    given = parser().parse_args(arguments)
    fields = _checked(given)
    python = peer_python(given.peer_python)
    if python is None:
        raise InputError("llama.cpp is not here: run make bench-peers, or give --peer-python PATH")
    options = Options(peer_python=python, **fields)
    with output.json_only(given.json) as emit:
        load = os.getloadavg()[0]
        found = compare_all(options, output.note)
        config = {
            **asdict(options),
            "load_average_before": load,
            "versions": found.versions,
            "idle_cpu_share": found.idle_cpu_share,
            "equal_tokens": found.equal_tokens,
        }
        rows = [asdict(row) for row in found.rows]
        emit(envelope(command_line(__file__, arguments), config, rows))
    if not given.json:
        for row in found.rows:
            print(f"{thread_count(row.threads)}: {describe(row)}")
    return 0


if __name__ == "__main__":
    run(main)
