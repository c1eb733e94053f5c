"""Makes the answer that was decided on: by the device, by a cloud, or by both."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ptmo_secure.config import GenerationConfig
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.errors import EgressRefusedError, PtmoError
from ptmo_secure.hybrid.aggregate import Merger
from ptmo_secure.hybrid.cascade import Cascade
from ptmo_secure.hybrid.consulting import Advice, Consultant, Question
from ptmo_secure.hybrid.deciding import Choice, Situation
from ptmo_secure.hybrid.delegation import (
    MAX_DRAFT_TOKENS,
    checked_draft,
    draft_messages,
    merge_messages,
)
from ptmo_secure.hybrid.device import Device, Drafted, Writer
from ptmo_secure.hybrid.exchange import Exchange
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.hybrid.trace import Trace
from ptmo_secure.offload.actions import Kind
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.types import Level, Route
from tee_sim.client import TeeError

if TYPE_CHECKING:
    from ptmo_secure.engine.stats import GenerationStats

_REWRITE = (
    "Rewrite the following answer as one short, fluent text. Keep every fact, name and number as "
    "it is, and add nothing."
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn was answered.

    Args:
        route: where.
        run: the device's last figures; None where it did nothing.
        masked: placeholders per kind in what a cloud was asked.
        usd: what it cost.
        tool_calls: that a cloud asks for, restored.
    """

    route: Route
    run: "GenerationStats | None" = None
    masked: Mapping[str, int] | None = None
    usd: float = 0.0
    tool_calls: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One turn that is to be answered.

    Args:
        case, choice: what was read and decided.
        messages: the conversation, for the device alone.
        options: of the answer.
        writer: takes it.
        trace: gets the steps.
    """

    case: Situation
    choice: Choice
    messages: Sequence[Mapping[str, object]]
    options: GenerationConfig
    writer: Writer
    trace: Trace

    def about(self, text: str) -> list[Mapping[str, object]]:
        """Return the conversation with another last message."""
        return [*self.messages[:-1], {"role": "user", "content": text}]


class Responder:
    """Makes answers.

    Args:
        device: answers here.
        consultant: asks a cloud; None: there is none.
        classifier: reads drafts.
        settings: of the pipeline.

    Whatever keeps a cloud from answering, the device answers.
    """

    def __init__(
        self,
        device: Device,
        consultant: Consultant | None,
        classifier: SensitivityClassifier,
        settings: HybridSettings,
    ) -> None:
        self._device, self._asks = device, consultant
        self._classifier, self._settings = classifier, settings

    def question(
        self,
        case: Situation,
        choice: Choice,
        options: GenerationConfig,
        tools: Sequence[Mapping[str, object]],
        facts: dict[str, object],
    ) -> Question | None:
        """Return what a cloud would be asked; None where nothing may go, and `facts` say why."""
        if self._asks is None:
            return None
        try:
            question = self._consultant.question(case, choice, options, tools)
        except (PtmoError, TeeError) as failure:  # the guard failed, or nobody can be asked this
            facts |= {"failed": code_of(failure)}
            return None
        if question is not None:
            facts |= {"masked": dict(question.masked), "history": len(case.turn.history)}
        return question

    def respond(self, job: Job, question: Question | None) -> Outcome:
        """Answer a turn.

        Args:
            job: what is to be answered.
            question: what of it may go; None: nothing.
        """
        if question is None:
            made = self._device.answer(job.messages, job.options, job.writer, job.trace)
            return Outcome(Route.LOCAL, made.run)
        cascade, delegates = self._settings.cascade, self._settings.delegate
        if job.choice.kind is Kind.ESCALATE and cascade is not None:
            return self._cascade(job, question, cascade)
        if delegates and job.case.turn.found.level is Level.SEMI_SENSITIVE:
            return self._delegate(job, question)
        return self._both(job, question)

    @property
    def _consultant(self) -> Consultant:
        if self._asks is None:
            raise EgressRefusedError("there is no cloud", "no_cloud")
        return self._asks

    def _both(self, job: Job, question: Question) -> Outcome:
        """Ask the cloud for what may go, and the device for what stays, at the same time."""
        divided, rewrites = job.case.divided, self._settings.rewrite_tokens > 0
        shown = Writer() if rewrites and divided.staying else job.writer
        local: Drafted | None = None
        local_first = divided.first == "local"
        with ExitStack() as held:
            sent = self._send(job, question, held)
            if divided.staying:
                local = self._device.answer(
                    job.about(divided.staying),
                    job.options,
                    shown if local_first else Writer(),
                    job.trace,
                )
            if local is not None and local_first:
                shown.begin_part()
            said = "" if local is None else local.text
            advice = self._listen(job, question, sent, said, shown)
        if advice is None:
            if local is not None and not local_first:
                shown.begin_part()
                shown.write(local.text)
            return self._instead(job, shown, divided.going if local else job.case.turn.query)
        if local is not None and not local_first:
            shown.begin_part()
            shown.write(local.text)
        if shown is not job.writer:
            self._rewrite(job, shown.text)
        whole = divided.stays == 0 and not question.masked
        route = Route.CLOUD if whole else Route.HYBRID
        run = None if local is None else local.run
        return Outcome(route, run, question.masked, advice.usd, advice.tool_calls)

    def _cascade(self, job: Job, question: Question, cascade: Cascade) -> Outcome:
        """Answer here, and ask the cloud only where that answer is doubted."""
        quiet = Writer()
        local = self._device.answer(job.messages, job.options, quiet, job.trace, score=True)
        others = [self._again(job, cascade, number) for number in range(cascade.samples)]
        with job.trace.step("cascade") as facts:
            sure = local.run.mean_logprob
            doubted = cascade.doubts(sure, local.text, others)
            facts |= {"mean_logprob": None if sure is None else round(sure, 4), "asks": doubted}
        advice: Advice | None = None
        if doubted:
            with ExitStack() as held:
                sent = self._send(job, question, held)
                advice = self._listen(job, question, sent, "", job.writer)
        if advice is None:
            job.writer.begin_part()
            job.writer.write(local.text)
            return Outcome(Route.LOCAL, local.run)
        route = Route.HYBRID if question.masked else Route.CLOUD
        return Outcome(route, local.run, question.masked, advice.usd, advice.tool_calls)

    def _again(self, job: Job, cascade: Cascade, number: int) -> str:
        sampling = SamplingParams(cascade.temperature, seed=number + 1)
        options = replace(job.options, sampling=sampling)
        name = "engine.sample"
        return self._device.answer(job.messages, options, Writer(), job.trace, name=name).text

    def _delegate(self, job: Job, question: Question) -> Outcome:
        """Have the device's model write what is asked, and make the answer of what comes back."""
        trace, advice, asked = job.trace, None, None
        try:
            with trace.step("guard.mask"):
                masked = question.vault.mask(job.case.turn.query).text
        except TeeError:
            return self._instead(job, job.writer, job.case.turn.query)
        short = replace(job.options, max_tokens=MAX_DRAFT_TOKENS, sampling=None, stop=())
        draft = self._device.answer(
            draft_messages(masked), short, Writer(), trace, name="engine.draft"
        )
        with trace.step("guard.draft") as facts:
            text = self._checked(draft.text, question)
            facts |= {"goes": text is not None}
        if text is not None:
            asked = self._consultant.drafted(question, text)
            with ExitStack() as held:
                advice = self._listen(job, asked, self._send(job, asked, held), "", Writer())
        if advice is None:
            return self._instead(job, job.writer, job.case.turn.query)
        told = merge_messages(job.messages, advice.text)
        local = self._device.answer(told, job.options, job.writer, trace)
        return Outcome(Route.HYBRID, local.run, {}, advice.usd)

    def _checked(self, draft: str, question: Question) -> str | None:
        try:
            return checked_draft(draft, question.vault, self._classifier)
        except TeeError:
            return None

    def _send(self, job: Job, question: Question, held: ExitStack) -> "_Sent":
        """Charge the budget and begin the question, which ends with `held`."""
        call, refusal = None, None
        with job.trace.step("cloud.send") as facts:
            facts |= {"why": question.why, "masked": dict(question.masked)}
            try:
                refusal = self._consultant.charge(question, job.case)
                if refusal is None and question.reply is None:
                    call = held.enter_context(self._consultant.ask(question, job.case.turn))
            except Exception as failure:  # fail closed, whatever it was
                refusal = code_of(failure)
            facts |= {"cost": round(question.cost, 4)} if refusal is None else {"refused": refusal}
        return _Sent(call, refusal is None)

    def _listen(
        self, job: Job, question: Question, sent: "_Sent", local: str, writer: Writer
    ) -> Advice | None:
        """Show the cloud's answer; None where there is none, and the trace says why."""
        if not sent.asked:
            return None
        with job.trace.step("cloud.answer") as facts:
            try:
                advice = self._consultant.listen(question, sent.call, writer, Merger(local))
            except (PtmoError, TeeError) as failure:
                facts |= {"failed": code_of(failure)}
                return None
            facts |= advice.facts
        return advice

    def _rewrite(self, job: Job, text: str) -> None:
        """Show a text as the device's model rewrites it, or as it is where that was cut off."""
        most = self._settings.rewrite_tokens
        told = [{"role": "system", "content": _REWRITE}, {"role": "user", "content": text}]
        options = replace(job.options, max_tokens=most, sampling=None, stop=())
        made = self._device.answer(told, options, Writer(), job.trace, name="engine.rewrite")
        whole = made.run.finish_reason == "stop" and made.text.strip()
        job.writer.write(made.text if whole else text)

    def _instead(self, job: Job, shown: Writer, query: str) -> Outcome:
        """Answer here what a cloud did not."""
        shown.begin_part()
        made = self._device.answer(job.about(query), job.options, shown, job.trace)
        if shown is not job.writer:
            job.writer.write(shown.text)
        return Outcome(Route.LOCAL, made.run)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A question that was asked, or not; `call` is None for an answer from the cache."""

    call: Exchange | None
    asked: bool


def code_of(failure: Exception) -> str:
    """Return why something failed, as the trace says it: a code or a type, never a text."""
    code = getattr(failure, "code", None)
    return f"{type(failure).__name__}:{code}" if isinstance(code, str) else type(failure).__name__
