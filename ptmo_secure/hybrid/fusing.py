"""A cloud's log-probabilities in the device's answer: the pipeline's way to `cloud.fusion`.

The device decodes the whole conversation as it is; the cloud is asked how the masked one goes on,
and is shown of the answer what the guard lets go. Of a conversation that holds something withheld
no word of the answer is published: it may hint at what the cloud was not told.
"""

from typing import TYPE_CHECKING

from ptmo_secure.cloud.fusion.config import FusionConfig
from ptmo_secure.cloud.fusion.view import PublicView, Publish, never
from ptmo_secure.cloud.types import Cloud, CloudDelta, CloudReply, CloudRequest
from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.hybrid.consulting import Consultant, Question
from ptmo_secure.hybrid.deciding import Situation
from ptmo_secure.hybrid.defusing import Defuser
from ptmo_secure.hybrid.device import Device, Drafted
from ptmo_secure.hybrid.jobs import Job
from ptmo_secure.hybrid.restoring import Restorer, restore
from ptmo_secure.hybrid.telling import mask_message

if TYPE_CHECKING:
    from collections.abc import Iterator


class Fusion:
    """Answers by both models together.

    Args:
        device: decodes.
        consultant: knows the cloud and the budget.
        config: how they are mixed.

    Security: the cloud gets the masked conversation, and of the answer what masks make fit to go,
    each through egress under a clearance that ends with the answer. Values, rows and logits stay.
    """

    def __init__(self, device: Device, consultant: Consultant, config: FusionConfig) -> None:
        self._device, self._consultant, self._config = device, consultant, config

    why = "fusion"  # in the egress log

    def takes(self, question: Question, case: Situation) -> bool:
        """Whether both can be asked the same, in text, and the answer is not known already."""
        return case.divided.stays == 0 and not question.request.tools and question.reply is None

    def answer(self, question: Question, job: Job, facts: dict[str, object]) -> Drafted:
        """Answer a conversation; a cloud that gives nothing in time leaves it to the device.

        Args:
            question: masked; the budget was charged for it.
            job: the turn.
            facts: get counts and codes; in any case "usd", what asking cost.

        Raises:
            EngineError: the run failed.
            TeeError: the guard failed, so that placeholders of the cloud's cannot be filled in.
        """
        from ptmo_secure.cloud.fusion.decode import FusedDecoder

        engine, case, options = self._device.engine(), job.case, job.options
        turn, writer = case.turn, job.writer
        cloud = _Metered(self._consultant.cloud)
        publish = never if turn.withheld else self._publishing(question, case)
        view = PublicView(publish, messages=question.request.messages)
        decoder = FusedDecoder(engine, cloud, self._config)
        restorer, begun = Restorer(question.filler), len(writer.text)
        defuser = Defuser(job.own_words())  # the device's words, which the cloud can steer
        clearance = self._consultant.cloud.egress.clearance(
            question.vault, self.why, turn.user, turn.session
        )
        try:
            with clearance:
                for piece in decoder.generate(
                    self._device.plain(job.messages),
                    view,
                    options.max_tokens,
                    sampling=options.sampling,
                    stop=options.stop,
                    adapters=options.adapters,
                ):
                    writer.write(defuser.feed(restorer.feed(piece)))
        finally:
            facts["usd"] = cloud.settle()
        writer.write(defuser.feed(restorer.finish()) + defuser.finish())
        run, stats = decoder.last_generation, decoder.last_run
        if run is None or stats is None:
            raise EngineError("the engine kept no figures of its run")
        facts |= {"tokens": stats.tokens, "fused": stats.fused, "alone": dict(stats.alone)}
        facts |= {"requests": stats.requests, "failures": dict(stats.failures)}
        facts |= {"longest_wait_ms": round(1e3 * stats.longest_wait_s, 1)}
        facts |= {"prompt_tokens": run.prompt_tokens, "tee_crossings": run.tee_crossings}
        facts |= {"finish_reason": run.finish_reason}
        return Drafted(writer.text[begun:], run)

    def _publishing(self, question: Question, case: Situation) -> Publish:
        """Return what of an answer may be told, and counts it: what is told again costs nothing."""
        counted = 0.0

        def publish(answer: str) -> str | None:
            nonlocal counted
            costs: list[float] = []
            told = restore(question.filler, answer)  # a placeholder of the cloud's stays the same
            masked = mask_message(question.vault, told, costs, "masked")
            if masked is None:
                return None
            more = sum(costs) - counted
            if more > 0 and self._consultant.disclose(case, more) is not None:
                return None
            counted += max(0.0, more)
            return masked

        return publish


class _Metered:
    """A cloud whose streams are settled together."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._streams: list[Iterator[CloudDelta]] = []

    def complete(self, request: CloudRequest, *, deadline_s: float | None = None) -> CloudReply:
        raise InputError("fusion takes its drafts token by token")

    def stream(
        self, request: CloudRequest, *, deadline_s: float | None = None
    ) -> "Iterator[CloudDelta]":
        stream = self._cloud.stream(request, deadline_s=deadline_s)
        self._streams.append(stream)
        return stream

    def settle(self) -> float:
        """End what is under way; return what all of it cost."""
        usd = 0.0
        for stream in self._streams:
            close = getattr(stream, "close", None)
            if close is not None:
                close()
            usd += float(getattr(stream, "usd", 0.0))
        return usd
