"""What the guard makes of a conversation: how private its last message is, and what of those before
may be told to a cloud.

Each earlier message of the user's is judged as it was when it was the last: what its user kept
stays, and so does what was private by itself, in the light of what was said before it, or because
it speaks of something withheld. What stayed is never told, and neither is what answers it. The
words of a cloud are told back to it as it wrote them. Any other answer is the device's as far as is
known, and it had all of the conversation before it: it goes, without its private values, only where
none of that was withheld. Results of tools go masked.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from ptmo_secure.hybrid.guarding import SharedGuard
from ptmo_secure.hybrid.replaying import BETWEEN, Archive, Past, Replay, refers
from ptmo_secure.hybrid.segments import speaks_of_own
from ptmo_secure.hybrid.telling import Message, Told, calls_of, text_of
from ptmo_secure.privacy.manager import PrivacyManager
from ptmo_secure.privacy.sensitivity import SensitivityClassifier, verdict
from ptmo_secure.types import Level, Sensitivity
from tee_sim.client import Masked, Vault


@dataclass(frozen=True, slots=True)
class Turn:
    """The last message of a conversation, read.

    Args:
        query: its text.
        found: the guard's verdict on it, in its conversation.
        user, session: whose.
        vault: of the session; None: nothing may leave.
        masked: the query as that masks it, where it is the user's.
        history: what of the earlier messages may be told.
        withheld: how many of them may not, or not all.
        sticky: whether one of these is close.
        own: whether the query is about its writer, of whom something was withheld.
        asked: the last message as it is.
        sent: as a cloud may see it, where it is none of the user's.
    """

    query: str
    found: Sensitivity
    user: str
    session: str
    vault: Vault | None = None
    masked: Masked | None = None
    history: tuple[Told, ...] = ()
    withheld: int = 0
    sticky: bool = False
    own: bool = False
    asked: Message | None = field(default=None, repr=False)
    sent: Told | None = None

    def facts(self) -> dict[str, object]:
        """What the trace tells of it."""
        found = self.found
        facts: dict[str, object] = {"level": found.level.value, "score": found.score}
        facts |= {"spans": dict(found.kinds), "reason": found.reason}
        if self.history or self.withheld:
            facts |= {"history": len(self.history), "withheld": self.withheld}
        return facts | ({"error": found.error} if found.error else {})


class ConversationReader:
    """Reads conversations; thread-safe.

    Args:
        guard: holds the vaults.
        classifier: rates texts by that guard.
        manager: says which segments may go.

    Attributes:
        memory: of what users kept and clouds said.

    Security: as `Archive`.
    """

    def __init__(
        self, guard: SharedGuard, classifier: SensitivityClassifier, manager: PrivacyManager
    ) -> None:
        self._guard, self._classifier = guard, classifier
        self._archive = Archive(guard, manager)
        self.memory = self._archive.memory

    def read(
        self,
        messages: Sequence[Message],
        user: str,
        session: str,
        *,
        stays: bool,
        marked: Collection[int] = (),
    ) -> Turn:
        """Read a conversation whose last message is to be answered.

        Args:
            messages: as in the OpenAI chat API; not empty.
            user, session: whose vault masks it.
            stays: nothing of it can leave the device, so its verdict alone is wanted.
            marked: places of earlier messages that their user keeps on the device.

        Returns:
            A turn; whatever fails in the guard makes it PRIVATE, without a vault.
        """
        query = text_of(messages[-1])
        whole = BETWEEN.join(filter(None, map(text_of, messages)))
        if stays:
            return Turn(query, self._classifier.classify(whole), user, session)
        try:
            vault = self._guard.vault(user, session)
            asked = messages[-1].get("role") == "user"
            # What is PRIVATE is masked as well: from now on egress looks for it
            masked = vault.mask(query) if asked else None
            alone = masked or self._guard.scan(query)
            before = self._guard.scan(whole) if len(messages) > 1 else alone
            spans = (alone.spans, before.spans)
            replay = Replay(self._archive, vault, user, messages, marked, *spans)
            found = verdict(alone)
            past = replay.past()
            if past.revealed:
                score = float(before.score)
                found = replace(found, level=Level.PRIVATE, score=score, reason="told_before")
            turn = Turn(query, found, user, session, vault, masked, asked=messages[-1])
            turn = _among(turn, past)
            if not asked and turn.sent is None:
                vault.mask(query)
            return turn
        except Exception as failure:  # fail closed, whatever it was
            self._guard.failed()
            error = type(failure).__name__
            broken = Sensitivity(Level.PRIVATE, 1.0, reason="guard_failed", error=error)
            return Turn(query, broken, user, session)

    def hear(self, turn: Turn, text: str, calls: Sequence[Message], said: Message | None) -> None:
        """Remember a cloud's words in an answer, which it may be told again.

        Args:
            turn: that was answered.
            text, calls: the answer as its user got it.
            said: what of it the cloud wrote, as it came; None: nothing.
        """
        if turn.vault is None or said is None or len(calls) != len(calls_of(said)):
            return
        shown = {"role": "assistant", "content": text, "tool_calls": list(calls)}
        self.memory.hear(turn.user, turn.vault.number, turn.asked, shown, said)


def _among(turn: Turn, past: Past) -> Turn:
    """Return a turn in its conversation."""
    found, own = turn.found, False
    if turn.asked is not None and turn.asked.get("role") == "user":
        own = past.withheld > 0 and speaks_of_own(turn.query)
        if refers(turn.query, found.refers_back, past.sticky, past.silent):
            found = replace(found, level=Level.PRIVATE, reason="refers_to_private")
    elif past.sent is None:
        found = replace(found, level=Level.PRIVATE, reason="answers_private")
    elif found.level is not Level.PUBLIC:  # it asks for nothing: masks hide all there is
        found = replace(found, level=Level.SEMI_SENSITIVE, reason="masked_result")
    return replace(
        turn,
        found=found,
        history=past.history,
        withheld=past.withheld,
        sticky=past.sticky,
        own=own,
        sent=past.sent if found.level is not Level.PRIVATE else None,
    )
