"""Fine-tuning of the guard's classifier: from labelled texts to the exported model."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer

from ptmo_secure import cli
from ptmo_secure.errors import InputError
from ptmo_secure.privacy.synth import Example
from ptmo_secure.privacy.synth.example import Label
from ptmo_secure.privacy.synth.words import word_list
from ptmo_secure.privacy.training import batches, rampart, recipe, shipped, thresholds, vocabulary
from ptmo_secure.privacy.training.bert import BertShape, TokenClassifier
from ptmo_secure.privacy.training.corpus import GUARD_KINDS, corpus, rewritten
from ptmo_secure.privacy.training.export import export, write_sums
from ptmo_secure.privacy.training.train import TrainConfig, train, with_new_head
from tee_sim.guard.ner import MODEL
from tee_sim.guard.ner import TokenClassifier as Running
from tee_sim.scan_result import ENTITY_KINDS

LABELS = batches.label_names(GUARD_KINDS)
CONFIG = TrainConfig(epochs=3, batch_tokens=512, peak_rate=3e-3, threads=1)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def tagged(tokenizer):
    return [batches.tag(example, tokenizer, LABELS) for example in corpus("train", 40, 3)]


def small(tokenizer, seed=0):
    torch.manual_seed(seed)
    shape = BertShape(tokenizer.get_vocab_size(), 512, 32, 4, 2, 64, 3)
    return with_new_head(TokenClassifier(shape), len(LABELS), CONFIG)


def moved(tokenizer):
    """A model no two of whose vectors are the same: the exporter would store them once."""
    model = small(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_lowers_the_loss_and_is_the_same_every_time(tokenizer, tagged):
    runs, results = [], []
    for _ in range(2):
        model = small(tokenizer)
        runs.append(train(model, tagged, CONFIG))
        results.append(weights(model))
    assert runs[0].losses == runs[1].losses and same(*results)
    assert runs[0].losses[-1] < 0.7 * runs[0].losses[0]
    other = small(tokenizer)
    train(other, tagged, TrainConfig(**{**CONFIG_FIELDS, "seed": 1}))
    assert not same(results[0], weights(other))


CONFIG_FIELDS = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}


def test_known_tokens_learn_slower_and_the_result_is_an_average(tokenizer, tagged):
    name = "bert.embeddings.word_embeddings.weight"
    known = tokenizer.get_vocab_size() // 2
    moved = {}
    for rate in (0.0, 0.2, 1.0):
        model = small(tokenizer)
        before = weights(model)[name]
        train(model, tagged, replace(CONFIG, known_rate=rate), n_known=known)
        change = (weights(model)[name] - before).abs()
        moved[rate] = change[:known].sum(), change[known:].sum()
    assert moved[0.0][0] == 0 and moved[0.0][1] > 0
    assert 0.1 < moved[0.2][0] / moved[1.0][0] < 0.4
    assert moved[0.2][1] / moved[1.0][1] > 0.8
    last, averaged = small(tokenizer), small(tokenizer)
    train(last, tagged, replace(CONFIG, average=0.0))
    train(averaged, tagged, CONFIG)
    assert not same(weights(last), weights(averaged))


def test_an_interrupted_training_goes_on_to_the_same_weights(
    tokenizer, tagged, tmp_path, monkeypatch
):
    monkeypatch.setattr("ptmo_secure.privacy.training.train._SAVED_EVERY", 5)
    whole = small(tokenizer)
    train(whole, tagged, CONFIG)

    def interrupt(done, total, what):
        if done == 8:
            raise KeyboardInterrupt

    state = tmp_path / "training.pt"
    with pytest.raises(KeyboardInterrupt):
        train(small(tokenizer), tagged, CONFIG, interrupt, state)
    steps = []
    resumed = small(tokenizer)
    train(resumed, tagged, CONFIG, lambda done, total, what: steps.append(done), state)
    assert steps[0] == 6
    assert same(weights(whole), weights(resumed))


def test_a_state_of_another_training_is_not_taken_up(tokenizer, tagged, tmp_path, monkeypatch):
    monkeypatch.setattr("ptmo_secure.privacy.training.train._SAVED_EVERY", 5)
    state, steps = tmp_path / "training.pt", []
    for texts, start in ((tagged[:-1], 0), (tagged, 1)):  # other texts; another base
        train(small(tokenizer), tagged, CONFIG, None, state)
        steps.clear()
        model = small(tokenizer, start)
        train(model, texts, CONFIG, lambda done, *_: steps.append(done), state)
        assert steps[0] == 1


def test_the_exported_model_gives_pytorchs_logits_and_runs_in_the_guard(
    tokenizer, tagged, tmp_path
):
    model = small(tokenizer)
    train(model, tagged, CONFIG)
    figures = export(model, tmp_path)
    assert figures["exact_difference"] < 1e-4
    assert figures["int8_agreement"] > 0.9
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    ids = torch.tensor([tagged[0].ids])
    with torch.no_grad():
        expected = model(ids, torch.ones_like(ids)).numpy()
    feed = {"input_ids": ids.numpy(), "attention_mask": np.ones_like(ids.numpy())}
    (found,) = session.run(None, feed)
    assert np.abs(found - expected).max() < 0.25 * np.abs(expected).max()
    chosen = thresholds.choose(tmp_path / "model.onnx", LABELS, tagged, "en")
    tables = {"thresholds": chosen, "hangul_thresholds": chosen}
    settings = json.dumps(
        {"labels": LABELS, "alone": 0.5, "hangul_alone": 0.5, **tables, **thresholds.FORMS}
    )
    files = {
        "model.onnx": (tmp_path / "model.onnx").read_bytes(),
        "tokenizer.json": tokenizer.to_str().encode(),
        "labels.json": settings.encode(),
    }
    assert list(Running(files).find("My name is Ann Lee.")) is not None


def test_a_model_comes_back_out_of_its_folder_within_a_step_of_its_eight_bits(tokenizer, tmp_path):
    model = moved(tokenizer)
    export(model, tmp_path)
    again, before = weights(shipped.load(tmp_path / "model.onnx")), weights(model)
    used = "bert.embeddings.token_type_embeddings.weight"
    assert torch.equal(again.pop(used)[0], before.pop(used)[0])
    assert again.keys() == before.keys()
    for name, tensor in before.items():
        step = tensor.abs().max() / 127 if tensor.ndim > 1 else 0.0
        assert (again[name] - tensor).abs().max() <= step, name


@pytest.fixture
def base(tokenizer, tmp_path):
    export(moved(tokenizer), tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return recipe.Base(tmp_path / "model.onnx", tmp_path / "tokenizer.json", trained=True)


def test_a_training_goes_on_from_a_folder_with_its_own_head(tokenizer, base):
    _, model, known = recipe._go_on(base, recipe.Recipe(), len(LABELS))
    held = weights(shipped.load(base.model))
    assert known == tokenizer.get_vocab_size()
    assert torch.equal(model.classifier.weight, held["classifier.weight"])
    with pytest.raises(InputError, match="not a model of 3 labels"):
        recipe._go_on(base, recipe.Recipe(), 3)
    other = base.model.with_name("other.onnx")
    other.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not an ONNX model"):
        shipped.load(other)
    with pytest.raises(InputError, match="not a tokenizer"):
        recipe._go_on(replace(base, tokenizer=base.model), recipe.Recipe(), len(LABELS))


def test_what_is_made_is_the_mean_of_trainings_each_on_texts_of_its_own(tokenizer, base, tmp_path):
    config = replace(CONFIG, epochs=1, seed=5)
    ends = []
    for seed in (5, 6):
        model = shipped.load(base.model)
        texts = [batches.tag(example, tokenizer, LABELS) for example in corpus("train", 30, seed)]
        words = batches.whole_words(tokenizer, word_list("everyday", "train"))
        known = tokenizer.get_vocab_size()
        train(model, texts, replace(config, seed=seed), everyday=words, n_known=known)
        ends.append(weights(model))

    out, first = tmp_path / "out", recipe.Recipe(2, 30, 5, training=config)

    def interrupt(done, total, what):
        if what.startswith("run 2/2: loss"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipe.make(base, out, first, interrupt)
    (out / "training-3.pt").touch()  # of a training of more runs, given up
    told = []
    made = recipe.make(base, out, first, lambda done, total, what: told.append(what[:13]))
    assert "run 2/2: loss" in told and "run 1/2: loss" not in told  # the first was saved whole
    assert len(made.runs) == 2 and not list(out.glob("*.pt"))
    assert ".pt" not in (out / "SHA256SUMS").read_text()
    result = weights(shipped.load(out / "model.onnx"))
    for name in ("classifier.weight", "bert.encoder.layer.0.output.dense.weight"):
        mean, apart = (ends[0][name] + ends[1][name]) / 2, (ends[0][name] - ends[1][name]).abs()
        step = mean.abs().max() / 127
        assert (result[name] - mean).abs().max() <= step < apart.max() / 2


def test_the_sums_are_those_of_the_files(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    write_sums(tmp_path)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  a\n"


def test_four_bit_weights_are_read_as_the_runtime_reads_them():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (3, 2, 32), dtype=np.uint8)
    scales = rng.random((3, 2), dtype=np.float32)
    packed = codes[:, :, 0::2] | codes[:, :, 1::2] << 4
    values = rampart._unpack({"bits": 4, "N": 3, "K": 60}, packed, scales)
    expected = ((codes.astype(np.float32) - 8) * scales[:, :, None]).reshape(3, 64)[:, :60]
    assert np.array_equal(values, expected)
    with pytest.raises(ValueError, match="8 bits a weight"):
        rampart._unpack({"bits": 8, "N": 3, "K": 60}, packed, scales)


def test_a_base_that_is_no_model_is_an_input_error(tmp_path):
    path = tmp_path / "model_q4.onnx"
    with pytest.raises(InputError, match="model_q4"):
        rampart.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="model_q4"):
        rampart.load(path)
    with pytest.raises(InputError, match="tokenizer"):
        vocabulary.with_hangul(path)


def test_the_shipped_tokenizer_knows_syllables_and_where_they_stand(tokenizer):
    text = "\uae40\ubbfc\uc218\uc57c, Ren\u00e9 \ubdc1"
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert encoded.tokens[:4] == ["\uae40", "##\ubbfc", "##\uc218", "##\uc57c"]
    assert [text[a:b] for a, b in encoded.offsets][:4] == ["\uae40", "\ubbfc", "\uc218", "\uc57c"]
    assert len(vocabulary.syllables()) == 2350 - 470


def test_a_wider_model_starts_from_the_letters_of_a_syllable(tokenizer):
    n_added = 2 * len(vocabulary.syllables())
    n_kept = tokenizer.get_vocab_size() - n_added
    in_order = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    added = [token for token, _ in in_order][n_kept:]
    old = TokenClassifier(BertShape(n_kept + 7, 512, 32, 4, 1, 64, 3))
    kept = [*range(5), *range(12, n_kept + 7)]  # seven tokens are given up
    wide = vocabulary.widen(old, tokenizer, kept, added)
    before = old.bert.embeddings.word_embeddings.weight[kept]
    after = wide.bert.embeddings.word_embeddings.weight
    assert torch.equal(after[:n_kept], before) and len(after) == tokenizer.get_vocab_size()
    letters = [tokenizer.token_to_id(t) for t in ("\u1100", "##\u1175", "##\u11b7")]
    assert torch.allclose(after[tokenizer.token_to_id("\uae40")], before[letters].mean(dim=0))


def test_a_vocabulary_keeps_its_order_and_leaves_scripts_without_texts_out(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u738b", "ann", "##\u0627", "\u03b1"]
    small_one = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    small_one.normalizer = BertNormalizer()
    small_one.save(str(tmp_path / "tokenizer.json"))
    wider, kept, added = vocabulary.with_hangul(tmp_path / "tokenizer.json")
    assert kept == [0, 1, 2, 3, 4, 6, 8] and len(added) == 2 * len(vocabulary.syllables())
    names = ("[MASK]", "ann", "\u03b1", added[0], "\u738b")
    assert [wider.token_to_id(name) for name in names] == [4, 5, 6, 7, None]


def test_a_model_for_shorter_texts_reads_them_as_before():
    model = TokenClassifier(BertShape(50, 16, 8, 2, 3, 16, 3)).eval()
    short = vocabulary.first_positions(model, 4).eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(short(ids, torch.ones_like(ids)), model(ids, torch.ones_like(ids)))
    assert short.shape.positions == 4


def test_layers_that_are_left_out_leave_the_others_as_they_are():
    model = TokenClassifier(BertShape(50, 16, 8, 2, 3, 16, 3))
    small_one = vocabulary.first_layers(model, (0, 2))
    assert small_one.shape.layers == 2
    for ours, theirs in zip(
        small_one.bert.encoder.layer[1].parameters(),
        model.bert.encoder.layer[2].parameters(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_every_label_is_a_kind_that_the_guard_can_report():
    assert set(GUARD_KINDS) <= set(ENTITY_KINDS)
    shipped = json.loads((MODEL / "labels.json").read_text())
    assert shipped["labels"] == LABELS
    assert shipped.keys() >= thresholds.FORMS.keys()
    assert all(0 < shipped[name] < 1 for name in ("alone", "hangul_alone", *thresholds.FORMS))
    assert set(shipped["thresholds"]) == set(shipped["hangul_thresholds"]) == set(GUARD_KINDS)


def test_a_rewritten_value_keeps_its_label_around_it():
    text = "Ann Lee met Bob Ray."
    example = Example(text, (Label(0, 7, "PERSON"), Label(12, 19, "PERSON")), "t")
    for seed in range(40):
        new = rewritten(example, random.Random(seed))
        assert new.text[new.spans[0].end :].startswith(" met ")
        assert new.text[: new.spans[1].start].endswith(" met ")
        assert new.text[new.spans[1].end :] == "."


def test_tokens_of_a_span_begin_and_go_on_and_unknown_kinds_are_refused(tokenizer):
    example = Example("call Ann Lee now", (Label(5, 12, "PERSON"),), "t")
    tagged = batches.tag(example, tokenizer, LABELS)
    names = [LABELS[c] if c >= 0 else "-" for c in tagged.classes]
    assert names == ["-", "O", "B-PERSON", "I-PERSON", "O", "-"]
    with pytest.raises(ValueError, match="B-NOTHING"):
        batches.tag(Example("a b", (Label(0, 1, "NOTHING"),), "t"), tokenizer, LABELS)


def test_some_tokens_outside_spans_are_exchanged_and_none_inside(tagged):
    order = np.random.default_rng(3)
    changed = outside = 0
    for batch in batches.batches(tagged, 256, order, exchanged=0.3):
        for ids, mask, classes in zip(batch.ids, batch.mask, batch.classes, strict=True):
            length = int(mask.sum())
            now, labels = ids[:length].tolist(), classes[:length].tolist()
            before = [text for text in tagged if text.classes == labels]
            kept = [i for i, label in enumerate(labels) if label != 0]
            assert any([t.ids[i] for i in kept] == [now[i] for i in kept] for t in before)
            outside += length - len(kept)
            changed += min(sum(a != b for a, b in zip(t.ids, now, strict=True)) for t in before)
    assert 0.15 < changed / outside < 0.35


def test_half_of_the_exchanged_tokens_are_everyday_words(tokenizer, tagged):
    words = batches.whole_words(tokenizer, ["kettle", "window", "no such token"])
    assert [tokenizer.id_to_token(token) for token in words] == ["kettle", "window"]
    order = np.random.default_rng(3)
    everyday = outside = 0
    for batch in batches.batches(tagged, 256, order, exchanged=0.4, everyday=words):
        everyday += int(np.isin(batch.ids.numpy()[batch.classes.numpy() == 0], words).sum())
        outside += int((batch.classes == 0).sum())
    assert 0.15 < everyday / outside < 0.25


def test_the_threshold_of_a_kind_weighs_leaks_against_alarms():
    sure = [(0.9, True)] * 40 + [(0.6, False)] * 40
    assert 0.6 < thresholds._best(sure, 3.0) <= 0.9
    unsure = [(0.3, True)] * 40 + [(0.1, False)] * 40
    assert 0.1 < thresholds._best(unsure, 3.0) <= 0.3
    assert thresholds._best([(0.9, True)] * 5 + [(0.6, False)] * 40, 3.0) == 0.5
    either = [(0.3, True)] * 40 + [(0.3, False)] * 200
    assert thresholds._best(either, 8.0) <= 0.3 < thresholds._best(either, 3.0)


def test_the_card_and_the_licence_go_with_every_model():
    card = Path(rampart.__file__).parent / "card"
    assert {p.name for p in card.iterdir()} == {"README.md", "LICENSE", "NOTICE"}
    for path in card.iterdir():
        assert (MODEL / path.name).read_bytes() == path.read_bytes()


def test_the_help_tells_what_a_training_takes_by_default(capsys):
    assert cli.main(["guard", "train", "--help"]) == 0
    said, usual = " ".join(capsys.readouterr().out.split()), recipe.Recipe()
    for default in (usual.texts, usual.runs, usual.training.epochs, usual.training.threads):
        assert f"[default: {default}]" in said


@pytest.mark.parametrize(
    "given",
    [
        ["--base", "a", "--from", "b"],
        *(["--texts", "0"], ["--runs", "0"], ["--seed", "-1"], ["--seed", str(2**64)]),
    ],
)
def test_a_training_starts_from_one_base_and_with_a_text(given, tmp_path, capsys):
    assert cli.main(["guard", "train", "--out", str(tmp_path), *given]) == 2
    said = capsys.readouterr().err
    assert given[0] in said and len(said.strip().splitlines()) == 1
