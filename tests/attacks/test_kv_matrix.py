"""From a fake engine to result rows, tables and files."""

import inspect
import io
import json

import numpy as np
import pytest
from rich.console import Console

from ptmo_secure.attacks.kv import (
    DictionaryAttack,
    KeystreamReuseAttack,
    Loot,
    PublicModel,
    StolenMemory,
    capture_prompts,
    default_attacks,
    load_prompts,
    plan_cells,
    run,
    score,
)
from ptmo_secure.attacks.kv import report as kv_report
from ptmo_secure.attacks.kv.matrix import Cell
from ptmo_secure.errors import EngineError, InputError
from tests.attacks.synthetic import (
    TEMPLATE,
    FakeEngine,
    Source,
    factory,
    make_prompts,
    steal,
)
from tests.sealed_dump import crypt_dump

SOURCE = Source()
PROMPTS = make_prompts()
JSON_KEYS = [
    "shield",
    "restore",
    "kv_dtype",
    "attack",
    "attacker",
    "layer",
    "tokens",
    "top1",
    "ci95",
    "control_top1",
    "chance",
    "seconds",
    "reconstructed",
]


@pytest.fixture(scope="module")
def rows():
    return run(factory(SOURCE), SOURCE, prompts=PROMPTS)


def pick(rows, shield, attack, restore=None):
    (row,) = [
        r for r in rows if (r.shield, r.attack) == (shield, attack) and restore in (None, r.restore)
    ]
    return row


def test_the_matrix_shows_what_each_shield_withstands(rows):
    assert pick(rows, "none", "layer0_dictionary").top1 == 1.0
    for restore in ("folded", "tee"):
        assert pick(rows, "permute", "layer0_dictionary", restore).top1 < 0.05
        assert pick(rows, "permute", "layer0_sorted", restore).top1 == 1.0
    for row in rows:
        assert row.control_top1 < 0.05, row.attack
        if "seal" in row.shield:
            assert row.top1 < 0.05, row.attack


def test_rows_carry_the_agreed_keys_in_order_and_are_json(rows):
    for row in rows:
        entry = row.as_json()
        assert list(entry)[: len(JSON_KEYS)] == JSON_KEYS
        assert entry == json.loads(json.dumps(entry))
        assert entry["tokens"] == 8 * 30
        assert 0 <= entry["ci95"][0] <= entry["top1"] <= entry["ci95"][1] <= 1
        assert entry["seconds"] > 0


def test_each_configuration_has_one_best_attack_and_it_is_the_highest(rows):
    cells = {(r.shield, r.restore, r.kv_dtype) for r in rows}
    assert len(cells) == 5
    for cell in cells:
        mine = [r for r in rows if (r.shield, r.restore, r.kv_dtype) == cell]
        (best,) = [r for r in mine if r.best]
        assert best.top1 == max(r.top1 for r in mine)


def test_the_reconstructed_text_is_the_users_and_no_template(rows):
    row = pick(rows, "none", "layer0_dictionary")
    assert row.reconstructed == row.true_text == PROMPTS[0][: len(row.true_text)]
    sealed = pick(rows, "seal", "layer0_dictionary")
    assert sealed.true_text == row.true_text != sealed.reconstructed


def test_one_key_for_all_sessions_is_found_out_by_keystream_reuse():
    prompts = make_prompts(count=4, words=12)
    attacks = [KeystreamReuseAttack()]
    weak = run(factory(SOURCE, False), SOURCE, ["seal"], attacks, prompts)
    sound = run(factory(SOURCE, True), SOURCE, ["seal"], attacks, prompts)
    assert weak[0].top1 == 1.0
    assert sound[0].top1 < 0.1
    assert weak[0].attacker == "A4"


def test_a_sealed_capture_opens_with_its_key_and_not_with_another():
    engine = FakeEngine(SOURCE, Cell("seal", None, "int8"))
    model, attack = PublicModel(SOURCE), DictionaryAttack("plain")
    for offset, low, high in ((0, 1.0, 1.0), (1, 0.0, 0.05)):
        opened, truth = [], []
        for prompt in PROMPTS:
            captured = capture_prompts(engine, [prompt])
            engine.ids = captured.truth[0].token_ids.tolist()
            sealed = engine.dump_device_memory()
            assert steal(sealed) == captured.stolen[0]
            key = engine.key(engine.session + offset)
            opened.append(steal(crypt_dump(sealed, lambda *_, key=key: key)))
            truth.extend(captured.truth)
        guesses = attack.run(Loot(tuple(opened)), model)
        assert low <= score(guesses, truth, model.vocab_size, 0).top1 <= high


def test_a_capture_marks_the_template_and_keeps_it_out_of_the_score():
    capture = capture_prompts(FakeEngine(SOURCE, Cell("none", None, "fp16")), PROMPTS[:2])
    before, after = TEMPLATE
    for truth in capture.truth:
        assert truth.token_ids[~truth.scored].tolist() == before + after
        assert truth.scored.sum() == 30


def test_a_capture_fails_when_the_pages_miss_a_row():
    class Forgetful(FakeEngine):
        def forward(self, token_ids):
            logits = super().forward(token_ids)
            self.ids = self.ids[:-1]
            return logits

    with pytest.raises(EngineError, match=r"sessions of \[35\] rows after a prompt of 36 tokens"):
        capture_prompts(Forgetful(SOURCE, Cell("none", None, "fp16")), PROMPTS[:1])


def test_an_attack_is_given_stolen_bytes_and_a_public_model_and_no_truth():
    for attack in default_attacks():
        signature = inspect.signature(attack.run)
        assert [p.annotation for p in signature.parameters.values()] == [Loot, PublicModel]
    assert set(StolenMemory.__dataclass_fields__) == {"pages", "layout"}
    assert set(Loot.__dataclass_fields__) == {"stolen", "known"}


def test_known_text_is_handed_to_attackers_that_have_some_and_to_no_other():
    seen = {}

    class Spy(DictionaryAttack):
        __slots__ = ()

        def run(self, loot, model):
            seen[self.attacker.value] = len(loot.known)
            return super().run(loot, model)

    attacks = [Spy("a"), Spy("b", attacker=KeystreamReuseAttack().attacker)]
    run(factory(SOURCE), SOURCE, ["none"], attacks, PROMPTS[:2])
    assert seen == {"A0": 0, "A4": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shields": ["rot13"]}, "unknown shield 'rot13'"),
        ({"shields": []}, "no shield given"),
        ({"shields": ["none"], "kv_dtypes": ["int3"]}, "unknown kv_dtype 'int3'"),
        ({"shields": ["none"], "restores": ["later"]}, "unknown restore 'later'"),
        ({"shields": ["none"], "prompts": []}, "no prompt"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(arguments, message):
    def refuse(cell):
        raise AssertionError("an engine was opened")

    with pytest.raises(InputError, match=message):
        run(refuse, SOURCE, **arguments)


def test_cells_take_each_restore_for_permute_and_one_for_the_rest():
    cells = plan_cells(["none", "permute", "seal", "permute+seal"], ["int8", "fp16"])
    names = [(c.shield, c.restore) for c in cells if c.kv_dtype == "int8"]
    assert names == [
        ("none", None),
        ("permute", "folded"),
        ("permute", "tee"),
        ("seal", None),
        ("permute+seal", "folded"),
    ]
    assert len(cells) == 10


def test_progress_counts_every_step_to_the_end():
    steps = []
    run(
        factory(SOURCE),
        SOURCE,
        ["none", "seal"],
        prompts=PROMPTS[:3],
        progress=lambda done, total, label: steps.append((done, total, label)),
    )
    total = 3 + 5 + 3 + 6
    assert [done for done, _, _ in steps] == [*range(1, total + 1), total]
    assert {t for _, t, _ in steps} == {total}
    assert steps[-1][2] == "done"


def test_the_report_prints_rates_and_keeps_control_characters_off_the_terminal(rows):
    hostile = [r for r in rows if r.best][:1]
    hostile = [
        type(r)(**{**r.as_json(), "reconstructed": "a\x1b[2J\u202eb\r[red]"}) for r in hostile
    ]
    console = Console(width=200, record=True, file=io.StringIO(), force_terminal=False)
    kv_report.show(hostile, console)
    text = console.export_text()
    assert "a·[2J·b·[red]" in text
    assert "\x1b" not in text
    assert "100.0 %" in text
    assert "240 tokens of user text from 8 prompts" in text


def test_a_plot_is_written_and_a_wrong_suffix_is_refused(rows, tmp_path):
    pytest.importorskip("matplotlib")
    kv_report.plot(rows, tmp_path / "bars.svg")
    assert "<svg" in (tmp_path / "bars.svg").read_text()
    with pytest.raises(InputError, match=r"bars\.txt does not end in"):
        kv_report.plot(rows, tmp_path / "bars.txt")
    with pytest.raises(InputError, match="cannot write"):
        kv_report.plot(rows, tmp_path / "missing" / "bars.png")


def test_the_prompts_are_many_varied_and_hold_no_contact_data():
    texts = load_prompts()
    assert len(texts.prompts) >= 24
    assert len(set(texts.prompts)) == len(texts.prompts)
    words = {word.lower() for prompt in texts.prompts for word in prompt.split()}
    assert len(words) > 1000
    joined = "\n".join(texts.prompts)
    assert any(ord(char) > 0x400 for char in joined)
    assert "@" not in joined
    digits = np.array(
        [len(run_) for run_ in "".join(c if c.isdigit() else " " for c in joined).split()]
    )
    assert digits.max() <= 4  # no phone, card or account number
    assert len(texts.chosen_text.split()) > max(len(p.split()) for p in texts.prompts)
