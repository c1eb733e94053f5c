"""Makes the answer that was decided on: by the device, by a cloud, or by both."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from ptmo_secure.cloud.hedging import hedge
from ptmo_secure.config import GenerationConfig
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.errors import EgressRefusedError, PtmoError
from ptmo_secure.hybrid.aggregate import Merger
from ptmo_secure.hybrid.cascade import Cascade
from ptmo_secure.hybrid.consulting import Advice, Consultant, Question
from ptmo_secure.hybrid.deciding import Choice, Situation
from ptmo_secure.hybrid.defusing import Defuser, defused
from ptmo_secure.hybrid.delegation import (
    MAX_DRAFT_TOKENS,
    checked_draft,
    draft_messages,
    merge_messages,
)
from ptmo_secure.hybrid.device import Device, Drafted, Writer
from ptmo_secure.hybrid.jobs import Job, Outcome, Sent, code_of
from ptmo_secure.hybrid.links import closing
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.hybrid.telling import text_of
from ptmo_secure.offload.actions import Kind
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.types import Level, Route
from tee_sim.client import TeeError

if TYPE_CHECKING:
    from ptmo_secure.hybrid.fusing import Fusion

Flow = Literal["ask", "cascade", "delegate", "fuse"]
_REWRITE = (
    "Rewrite the following answer as one short, fluent text. Keep every fact, name and number as "
    "it is, and add nothing."
)


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
        self._fusion: Fusion | None = None
        if settings.fusion is not None and consultant is not None:
            from ptmo_secure.hybrid import fusing

            self._fusion = fusing.Fusion(device, consultant, settings.fusion)

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
            return Outcome(Route.LOCAL, made.run, tool_calls=made.tool_calls)
        flow = self.flow(job.case, job.choice, question)
        if flow == "fuse" and self._fusion is not None:
            return self._fused(job, question, self._fusion)
        if flow == "cascade" and self._settings.cascade is not None:
            return self._cascade(job, question, self._settings.cascade)
        return self._delegate(job, question) if flow == "delegate" else self._both(job, question)

    def flow(self, case: Situation, choice: Choice, question: Question) -> Flow:
        """Return how a turn of which something may go is answered."""
        if self._fusion is not None and self._fusion.takes(question, case):
            return "fuse"
        if choice.kind is Kind.ESCALATE and self._settings.cascade is not None:
            return "cascade"
        masked = case.turn.found.level is Level.SEMI_SENSITIVE and case.turn.sent is None
        return "delegate" if self._settings.delegate and masked else "ask"

    def drafted(self, job: Job, question: Question) -> Question | None:
        """Return what a cloud is asked in a turn's place; None where no draft may go.

        Args:
            job: what is to be answered.
            question: what of it may go.

        Security: the draft is made of the parts that might go themselves, masked, and of nothing
        else: what the user keeps and what is PRIVATE cannot be in it, whatever the model writes.

        Raises:
            EngineError: the device's model failed.
        """
        trace = job.trace
        short = replace(job.options, max_tokens=MAX_DRAFT_TOKENS, sampling=None, stop=())
        told = draft_messages(text_of((question.request.messages or ())[-1]))
        draft = self._device.answer(told, short, Writer(), trace, name="engine.draft")
        with trace.step("guard.draft") as facts:
            text = self._checked(draft.text, question)
            facts |= {"goes": text is not None}
        return None if text is None else self._consultant.drafted(question, text)

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
            job.sent.append(sent)
            made = None if divided.staying else self._overtaking(job, sent)
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
            advice = None if made else self._listen(job, question, sent, said, shown)
        if made is not None:
            told, calls = sent.told(question), made.tool_calls
            return Outcome(Route.LOCAL, made.run, told, sent.usd, calls, failed="late")
        if advice is None:
            if local is not None and not local_first:
                _begin_own(shown, after_cloud=sent.begun)
                shown.write(local.text)
            asked = divided.going if local else job.case.turn.query
            return self._instead(job, shown, asked, question, sent)
        if local is not None and not local_first:
            _begin_own(shown, after_cloud=True)
            shown.write(local.text)
        if shown is not job.writer:
            self._rewrite(job, shown.text)
        whole = divided.stays == 0 and not question.carries
        route = Route.CLOUD if whole else Route.HYBRID
        return sent.answered(route, question, advice, None if local is None else local.run)

    def _cascade(self, job: Job, question: Question, cascade: Cascade) -> Outcome:
        """Answer here, and ask the cloud only where that answer is doubted."""
        quiet = Writer()
        local = self._device.answer(job.messages, job.options, quiet, job.trace, score=True)
        others = [self._again(job, cascade, number) for number in range(cascade.samples)]
        with job.trace.step("cascade") as facts:
            sure = local.run.mean_logprob
            said = local.text + "".join(map(str, local.tool_calls))
            doubted = cascade.doubts(sure, said, others)
            facts |= {"mean_logprob": None if sure is None else round(sure, 4), "asks": doubted}
        advice: Advice | None = None
        sent = Sent(None)
        if doubted:
            with ExitStack() as held:
                sent = self._send(job, question, held)
                job.sent.append(sent)
                advice = self._listen(job, question, sent, "", job.writer)
        if advice is None:
            _begin_own(job.writer, after_cloud=sent.begun)
            job.writer.write(local.text)
            told, calls = sent.told(question), local.tool_calls
            return Outcome(sent.instead, local.run, told, sent.usd, calls, failed=sent.failed)
        route = Route.HYBRID if question.carries else Route.CLOUD
        return sent.answered(route, question, advice, local.run)

    def _fused(self, job: Job, question: Question, fusion: "Fusion") -> Outcome:
        """Answer by both models together, token by token."""
        sent = Sent(None)
        with job.trace.step("cloud.send") as facts:
            facts |= {"why": fusion.why, "masked": dict(question.masked)}
            try:
                job.withdrawal.check()
                refusal = self._consultant.charge(question, job.case)
                sent.failed = "" if refusal is None else "budget"
            except Exception as failure:  # fail closed, whatever it was
                sent.failed = refusal = code_of(failure)
            facts |= {"cost": round(question.cost, 4)} if refusal is None else {"refused": refusal}
        if refusal is not None:
            return self._instead(job, job.writer, job.case.turn.query, question, sent)
        made: Drafted | None = None
        with job.trace.step("engine.fuse") as facts:
            try:
                made = fusion.answer(question, job, facts)
            except TeeError as failure:
                sent.failed = code_of(failure)
                facts |= {"failed": sent.failed}
        usd = float(str(facts["usd"]))
        sent.known = bool(facts.get("requests", 1))
        job.sent.append(sent)
        left = question.masked if sent.known else {}
        if made is None:
            query = job.case.turn.query
            instead = self._instead(job, job.writer, query, question, sent)
            return replace(instead, usd=usd, masked=left)
        if not facts["fused"]:
            return Outcome(Route.LOCAL, made.run, left, usd, failed="not_fused")
        return Outcome(Route.HYBRID, made.run, question.masked, usd)

    def _again(self, job: Job, cascade: Cascade, number: int) -> str:
        sampling = SamplingParams(cascade.temperature, seed=number + 1)
        options = replace(job.options, sampling=sampling)
        name = "engine.sample"
        return self._device.answer(job.messages, options, Writer(), job.trace, name=name).text

    def _delegate(self, job: Job, question: Question) -> Outcome:
        """Have the device's model write what is asked, and make the answer of what comes back."""
        advice, sent = None, Sent(None, "draft")
        asked = self.drafted(job, question)
        if asked is not None:
            with ExitStack() as held:
                sent = self._send(job, asked, held)
                advice = self._listen(job, asked, sent, "", Writer())
                sent.begun = False  # it is advice, which nobody is shown
        if advice is None or asked is None:
            return self._instead(job, job.writer, job.case.turn.query, asked, sent)
        told = merge_messages(job.messages, advice.text)
        defuser = Defuser(job.own_words())
        inert = Writer(lambda piece: job.writer.write(defuser.feed(piece)))
        local = self._device.answer(told, job.options, inert, job.trace)
        job.writer.write(defuser.finish())
        return Outcome(Route.HYBRID, local.run, {}, sent.usd)

    def _checked(self, draft: str, question: Question) -> str | None:
        try:
            return checked_draft(draft, question.vault, self._classifier)
        except TeeError:
            return None

    def _send(self, job: Job, question: Question, held: ExitStack) -> Sent:
        """Charge the budget and begin the question, which ends with `held`."""
        sent, refusal = Sent(None), None
        with job.trace.step("cloud.send") as facts:
            facts |= {"why": question.why, "masked": dict(question.masked)}
            try:
                job.withdrawal.check()
                refusal = self._consultant.charge(question, job.case)
                sent.failed = "" if refusal is None else "budget"
                if refusal is None and question.reply is None:
                    sent.call = held.enter_context(self._consultant.ask(question, job.case.turn))
                    job.withdrawal.when(sent.call.withdraw)
                sent.known = refusal is None and question.reply is not None
            except Exception as failure:  # fail closed, whatever it was
                sent.failed = refusal = code_of(failure)
            facts |= {"cost": round(question.cost, 4)} if refusal is None else {"refused": refusal}
        return sent

    def _listen(
        self, job: Job, question: Question, sent: Sent, local: str, writer: Writer
    ) -> Advice | None:
        """Show the cloud's answer; None where there is none, and `sent` and the trace say why."""
        if sent.failed:
            return None
        shown = len(writer.text)
        with job.trace.step("cloud.answer") as facts:
            try:
                advice = self._consultant.listen(question, sent.call, writer, Merger(local))
            except (PtmoError, TeeError) as failure:
                sent.failed = code_of(failure)
                sent.begun = bool(writer.text[shown:].strip())
                facts |= {"failed": sent.failed}
                return None
            facts |= advice.facts
        return advice

    def _overtaking(self, job: Job, sent: Sent) -> Drafted | None:
        """Return the device's answer, shown, where a cloud that is late is overtaken by it."""
        after_s = self._settings.hedge_s
        if after_s is None or sent.call is None:
            return None
        with job.trace.step("hedge") as facts:
            begin = partial(self._device.begin, job.messages, job.options)
            hedged = hedge(sent.call, begin, after_s)
            if hedged.local is not None:
                self._device.leave(hedged.local)
            facts |= {"winner": hedged.winner, "begun": hedged.local is not None}
            facts |= {"failed": True} if sent.call.failed else {}
        if hedged.local is None or hedged.winner == "cloud":
            return None
        with job.trace.step("engine.generate") as facts:
            return self._device.finish(hedged.local, job.options, job.writer, facts)

    def _rewrite(self, job: Job, text: str) -> None:
        """Show a text as the device's model rewrites it.

        It is shown as it is where that was cut off, or makes links: the model knows what they tell.
        """
        most = self._settings.rewrite_tokens
        told = [{"role": "system", "content": _REWRITE}, {"role": "user", "content": text}]
        options = replace(job.options, max_tokens=most, sampling=None, stop=())
        made = self._device.answer(told, options, Writer(), job.trace, name="engine.rewrite")
        whole = made.run.finish_reason == "stop" and made.text.strip()
        fits = whole and defused(made.text, job.own_words()) == made.text
        job.writer.write(made.text if fits else text)

    def _instead(
        self, job: Job, shown: Writer, query: str, question: Question | None, sent: Sent
    ) -> Outcome:
        """Answer here what a cloud did not; asking it costs what it cost all the same."""
        _begin_own(shown, after_cloud=sent.begun)
        made = self._device.answer(job.about(query), job.options, shown, job.trace)
        if shown is not job.writer:
            job.writer.write(shown.text)
        told = {} if question is None else sent.told(question)
        calls, failed = made.tool_calls, sent.failed
        return Outcome(sent.instead, made.run, told, sent.usd, calls, failed=failed)


def _begin_own(shown: Writer, *, after_cloud: bool) -> None:
    """Begin the device's part, with its values, in no tag that a cloud left open."""
    if after_cloud:
        shown.write(closing(shown.text))
    shown.begin_part()
