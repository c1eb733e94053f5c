"""Fine-tuning of the token classifier."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ptmo_secure.privacy.training.batches import IGNORED, Tagged, batches
from ptmo_secure.privacy.training.bert import TokenClassifier
from ptmo_secure.results import read_lines

Progress = Callable[[int, int, str], None]  # (done, total, what)
_SAVED_EVERY = 100  # steps


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train.

    Args:
        epochs: passes over the texts.
        batch_tokens: padded tokens of a step.
        peak_rate: highest learning rate of the one-cycle schedule, for the head ten times that.
        weight_decay: of AdamW, on matrices.
        smoothing: label smoothing.
        dropout: while training.
        exchanged: share of the tokens outside spans that are replaced, see `batches`.
        known_rate: how fast embeddings of tokens that the base knew learn, beside all else: names
            that no text holds stay near those that some do.
        average: decay of the exponential moving average of the weights, which is the result.
        seed: of the head, the order and the dropout.
        threads: of PyTorch.
        bfloat16: multiply matrices in bfloat16; a third of the time where the CPU has it.
    """

    epochs: int = 1
    batch_tokens: int = 2048
    peak_rate: float = 3e-4
    weight_decay: float = 0.01
    smoothing: float = 0.05
    dropout: float = 0.1
    exchanged: float = 0.06
    known_rate: float = 0.2
    average: float = 0.998
    seed: int = 0
    threads: int = 2
    bfloat16: bool = False


@dataclass(frozen=True, slots=True)
class TrainRun:
    """What a training came to."""

    steps: int
    seconds: float
    losses: tuple[float, ...]  # mean of each tenth of the steps


def has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16 by itself; where not, it would only be slower."""
    flags = read_lines("/proc/cpuinfo")
    return any("avx512_bf16" in line or "amx_bf16" in line for line in flags)


def with_new_head(model: TokenClassifier, n_labels: int, config: TrainConfig) -> TokenClassifier:
    """Return the model's body under a fresh head of `n_labels` classes."""
    torch.manual_seed(config.seed)
    fresh = TokenClassifier(replace(model.shape, labels=n_labels), config.dropout)
    body = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")}
    fresh.load_state_dict(body, strict=False)
    nn.init.normal_(fresh.classifier.weight, std=0.02)
    nn.init.zeros_(fresh.classifier.bias)
    return fresh


def train(
    model: TokenClassifier,
    texts: Sequence[Tagged],
    config: TrainConfig,
    progress: Progress | None = None,
    state: Path | None = None,
    *,
    everyday: Sequence[int] = (),
    n_known: int = 0,
) -> TrainRun:
    """Train `model` in place on `texts`: cross-entropy per token, AdamW, one-cycle schedule, and at
    the end the moving average of the weights.

    Deterministic for one machine, seed and number of threads.

    Args:
        model: of `with_new_head`.
        texts: to learn from.
        config: how.
        progress: told the steps.
        state: file where the training is saved now and then, and goes on from if it is there and of
            the same texts, config and weights to start from.
        everyday: tokens of everyday words, for `batches`.
        n_known: tokens, from the first on, that the base knew.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    epochs = [
        list(batches(texts, config.batch_tokens, generator, config.exchanged, everyday))
        for _ in range(config.epochs)
    ]
    steps = [batch for epoch in epochs for batch in epoch]
    optimizer = torch.optim.AdamW(_groups(model, config), betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=len(steps),
        pct_start=0.1,
    )
    loss_of = nn.CrossEntropyLoss(ignore_index=IGNORED, label_smoothing=config.smoothing)
    losses: list[float] = []
    average = AveragedModel(model, multi_avg_fn=_moving_average(config.average))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "average": average}
    made_of = {**asdict(config), "texts": len(texts), "tokens": sum(len(t.ids) for t in texts)}
    made_of["start"] = _digest(model)
    if state is not None and state.is_file():
        losses = _resume(state, parts, made_of)
    known = model.bert.embeddings.word_embeddings.weight.detach()[:n_known]
    started = time.perf_counter()
    model.train()
    for batch in steps[len(losses) :]:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            logits = model(batch.ids, batch.mask)
        loss = loss_of(logits.float().flatten(0, 1), batch.classes.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = known.clone()
        optimizer.step()
        known.copy_(before.lerp_(known, config.known_rate))
        schedule.step()
        average.update_parameters(model)
        losses.append(loss.item())
        if progress is not None:
            progress(len(losses), len(steps), f"loss {np.mean(losses[-50:]):.3f}")
        if state is not None and (len(losses) % _SAVED_EVERY == 0 or len(losses) == len(steps)):
            _save(state, parts, made_of, losses)
    model.load_state_dict(average.module.state_dict())
    model.eval()
    tenths = np.array_split(np.array(losses), min(10, len(losses)))
    means = tuple(float(part.mean()) for part in tenths)
    return TrainRun(len(steps), time.perf_counter() - started, means)


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """The exponential moving average, which forgets its first steps sooner."""

    def update(averaged: list[torch.Tensor], current: list[torch.Tensor], n: torch.Tensor) -> None:
        kept = min(decay, (1 + int(n)) / (10 + int(n)))
        for mean, new in zip(averaged, current, strict=True):
            mean.lerp_(new, 1 - kept)

    return torch.no_grad()(update)


def _digest(model: nn.Module) -> str:
    """Return the hash of a model's weights."""
    told = hashlib.sha256()
    for tensor in model.state_dict().values():
        told.update(tensor.contiguous().numpy())
    return told.hexdigest()


def _save(path: Path, parts: dict[str, Any], made_of: dict[str, Any], losses: list[float]) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    random = torch.get_rng_state()
    temporary = path.with_name(path.name + ".part")
    torch.save({**states, "made_of": made_of, "losses": losses, "random": random}, temporary)
    temporary.replace(path)


def _resume(path: Path, parts: dict[str, Any], made_of: dict[str, Any]) -> list[float]:
    """Load a saved training into its parts; return the losses so far, none if it is another's."""
    saved = torch.load(path, weights_only=True)
    if saved["made_of"] != made_of:
        return []
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    torch.set_rng_state(saved["random"])
    losses: list[float] = saved["losses"]
    return losses


def _groups(model: TokenClassifier, config: TrainConfig) -> list[dict[str, object]]:
    """Parameters by rate and decay: matrices decay, vectors do not, the head learns faster."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = config.peak_rate * (10 if name.startswith("classifier.") else 1)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": members, "lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
