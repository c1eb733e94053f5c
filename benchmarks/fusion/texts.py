"""The texts that fusion is measured on."""

from dataclasses import dataclass
from pathlib import Path

from ptmo_secure.errors import InputError

FIXTURE = Path(__file__).resolve().parents[2] / "tests" / "data" / "public_domain.txt"


def documents(path: Path = FIXTURE) -> list[str]:
    """Return the documents of a file, split at lines that begin with "== ".

    Raises:
        InputError: the file is missing or has no document.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as failure:
        raise InputError(f"{path}: {failure.strerror}") from None
    parts = [part for part in ("\n" + text).split("\n== ")[1:] if "\n" in part]
    if not parts:
        raise InputError(f'{path}: no line begins with "== "')
    return [part.split("\n", 1)[1].strip() for part in parts]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what only the device knows of who asks."""

    private: str
    public: str


QUESTIONS = (
    Question("The user has a nut allergy and cooks on one gas ring.", "Suggest a quick dinner."),
    Question("The user lives in Oslo and works night shifts.", "How can I sleep better?"),
    Question("The user is a beginner who knows only Python.", "What is recursion?"),
    Question("The user's daughter Mia is seven.", "Explain why the sky is blue."),
    Question("The user is saving for a house and earns 3,100 a month.", "How do I make a budget?"),
    Question("The user has a bad knee.", "What exercise is good for the heart?"),
    Question("The user's manager is called Ruth.", "Write a short note to ask for a day off."),
    Question("The user is going to Lisbon in May.", "What should I pack for a week away?"),
    Question("The user keeps bees.", "How do plants reproduce?"),
    Question("The user is preparing for a chemistry exam.", "What is an acid?"),
    Question("The user teaches history in a small town.", "Who was Julius Caesar?"),
    Question("The user has an old laptop with 4 GB of memory.", "How can I make my PC faster?"),
)
