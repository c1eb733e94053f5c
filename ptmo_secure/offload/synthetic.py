"""Made-up outcome tables, so that everything runs without a data folder.

They show that the parts fit together. No figure measured on them says anything about a model.
"""

import numpy as np

from ptmo_secure.offload.outcomes import Conversation, OutcomeTable, parse_m4a1

_SEED = 20_260
_TOPICS = {
    # the words of a topic, and how often the local and the cloud model answer it rightly
    "arithmetic": ("sum product fraction percent ratio remainder", 0.45, 0.90),
    "geography": ("river capital island border mountain desert", 0.75, 0.80),
    "law": ("contract statute appeal liability tenant verdict", 0.35, 0.70),
    "cooking": ("recipe oven butter garlic dough simmer", 0.80, 0.82),
    "code": ("function loop array pointer recursion compiler", 0.40, 0.85),
    "history": ("empire treaty dynasty revolution archive siege", 0.60, 0.75),
}
_HARD = "prove derive compare justify"
_EASY = "name list define recall"
_TASKS = {
    "Assistive System": ("Please turn the {} down.", "Please play a tutorial on {}."),
    "Message Editing": ("Please leave a note about the {}.", "Please draft a memo about {}."),
    "Query": ("Where did I put the {}?", "How much {} is left?"),
    "Recommendation": ("Please recommend a dish with {}.", "What should I do next with the {}?"),
}
_THINGS = ("lights", "oven", "potatoes", "kettle", "ketchup", "music")


def question_table(questions: int = 900) -> OutcomeTable:
    """Return questions of six topics; the hard ones are those with a demanding verb.

    Args:
        questions: how many, at least 1.
    """
    rng = np.random.default_rng(_SEED)
    texts: dict[str, tuple[str, float, float]] = {}
    while len(texts) < questions:
        topic = str(rng.choice(list(_TOPICS)))
        words, local, cloud = _TOPICS[topic]
        hard = bool(rng.random() < 0.5)
        verb = rng.choice((_HARD if hard else _EASY).split())
        chosen = rng.choice(words.split(), size=3, replace=False)
        text = f"Please {verb} the {chosen[0]} of case {rng.integers(10_000)}: "
        text += f"{chosen[1]} and {chosen[2]}."
        rates = (local - 0.3, cloud - 0.05) if hard else (min(0.97, local + 0.2), cloud)
        texts[text] = topic, float(rng.random() < rates[0]), float(rng.random() < rates[1])
    scores = np.array([row[1:] for row in texts.values()])
    groups = tuple(row[0] for row in texts.values())
    return OutcomeTable("synthetic", tuple(texts), groups, scores, ("small", "large"))


def conversations(count: int = 60) -> tuple[Conversation, ...]:
    """Return conversations in M4A1's format: 2 to 5 turns, 4 tasks, one logged action a turn."""
    rng = np.random.default_rng(_SEED)
    entries = []
    for _ in range(count):
        interactions, association = [], []
        for _ in range(int(rng.integers(2, 6))):
            task = str(rng.choice(list(_TASKS)))
            cloud = bool(rng.random() < 0.5)
            images = [i for i in range(3) if cloud and rng.random() < 0.3]
            gain = {"Query": 0.25, "Recommendation": 0.15}.get(task, 0.0) * len(images)
            score = max(0.0, rng.normal(0.8 + 0.3 * cloud + gain, 0.4))
            interactions.append(
                {
                    "question": str(rng.choice(_TASKS[task])).format(rng.choice(_THINGS)),
                    "task_cat": task,
                    "action": int(cloud),
                    "image_index": images or None,
                    "answer": "made up",
                    "score": round(score, 3),
                    "interaction_time": round(float(rng.gamma(9.0, 0.8)), 3),
                    "usage_cost": (0.0005 + 0.0044 * len(images)) if cloud else 0.0,
                }
            )
            association.append([round(float(value), 4) for value in rng.uniform(0.15, 0.3, 3)])
        entries.append({"interactions": interactions, "association_score": association})
    return parse_m4a1(entries, "the synthetic conversations")
