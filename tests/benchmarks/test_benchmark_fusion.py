"""The benchmarks of fusion, whole, on tiny models and a short text."""

import json

import fusion_deadline
import fusion_fidelity
import fusion_http
import fusion_pair
import pytest
from fusion import texts
from fusion.slow_cloud import BadLuck, RecordedCloud, SlowCloud

from ptmo_secure.cloud.fusion import load_gate
from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.errors import CloudError, InputError
from tests.cloud import hostile_server as hostile
from tests.cloud.fusion_doubles import position
from tests.tiny_models import make_tiny_model

SENTENCE = "the other user was at the inn and the hello in the hall was all there is on the rest. "
ASKED = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [str(make_tiny_model(folder, seed=seed, context_length=2048).path) for seed in (1, 2)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"== part {i}\n{SENTENCE * 8}\n" for i in range(2)))
    return str(path)


def results(main, arguments, capsys):
    assert main([*arguments, "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["command"].startswith("python benchmarks/fusion_")
    return out["results"]


def test_fidelity_compares_top_k_with_full_fusion_and_counts_requests(models, text, capsys):
    arguments = ["--model", models[0], "--text", text, "--tokens", "6"]
    rows = results(fusion_fidelity.main, arguments, capsys)
    fidelity = {
        (r["text"], r["rule"], r["top"], r["ceiling"]): r
        for r in rows
        if r["measure"] == "fidelity"
    }
    assert len(fidelity) == 2 * 2 * 4
    for (name, rule, _, _), row in fidelity.items():
        assert 0 <= row["kl_nats"] < 5
        assert 0 <= row["same_greedy_token"] <= 1
        assert (
            fidelity[name, rule, 5, True]["mean_mass"] < fidelity[name, rule, 20, True]["mean_mass"]
        )
    asked = [r for r in rows if r["measure"] == "ask_where_unsure" and r["text"] == "prose"]
    rates = [r["requests_per_token"] for r in asked]
    assert rates == sorted(rates)
    drafted = [r for r in rows if r["measure"] == "look_ahead"]
    always = {r["chunk_tokens"]: r for r in drafted if r["ask_margin"] is None}
    assert always[1]["requests_per_token"] >= always[16]["requests_per_token"]


def test_the_pair_is_aligned_compared_and_its_gate_saved(models, text, capsys, tmp_path):
    gate = tmp_path / "gate.npz"
    arguments = ["--model", models[0], "--cloud-model", models[1], "--text", text]
    rows = results(
        fusion_pair.main, [*arguments, "--tokens", "4", "--save-gate", str(gate)], capsys
    )
    (alignment,) = [r for r in rows if r["measure"] == "alignment"]
    assert alignment["same_span"] == alignment["same_start"] == 1.0  # one vocabulary for both
    losses = [r for r in rows if r["measure"] == "loss"]
    for row in losses:
        assert row["gain_nats"] == pytest.approx(row["device_nats"] - row["fused_nats"])
    held_out = [r for r in rows if r["measure"] == "held_out"]
    assert {r["positions"] for r in held_out} == {losses[0]["positions"] // 2}
    assert load_gate(gate).parameters == 72


def test_the_deadline_is_measured_beside_plain_sleeps(models, text, capsys):
    arguments = ["--model", models[0], "--tokens", "3", "--repeats", "1", "--deadline-ms", "20"]
    rows = results(fusion_deadline.main, arguments, capsys)
    assert [r["cloud"] for r in rows] == list(fusion_deadline.LUCKS)
    by_name = {r["cloud"]: r for r in rows}
    assert by_name["dead"]["fused_share"] == 0
    assert by_name["stalls always"]["fused_share"] == 0
    for row in rows:
        assert row["tokens"] > 0
        assert row["control_longest_s"] >= 0.02


def recording():
    return RecordedCloud({"hello": tuple(position((bytes([b]), 0.9)) for b in b"abcd")})


def test_a_recording_goes_on_behind_a_partial_answer_and_says_where_it_ends():
    partial = {"role": "assistant", "content": "ab"}
    first = recording().complete(CloudRequest((ASKED,), max_tokens=3))
    rest = recording().complete(CloudRequest((ASKED, partial), max_tokens=3, continue_final=True))
    assert (first.text, first.finish_reason) == ("abc", "length")
    assert (rest.text, rest.finish_reason) == ("cd", "stop")


def test_a_recording_refuses_an_answer_that_it_never_gave():
    partial = {"role": "assistant", "content": "abcde"}
    with pytest.raises(CloudError, match="no such beginning"):
        recording().complete(CloudRequest((ASKED, partial), continue_final=True))


def test_bad_luck_has_the_shares_that_it_is_given():
    luck = BadLuck(0.0, 0.0, fails=0.3, breaks=0.0, stalls=0.0, seed=1)
    cloud = SlowCloud(recording(), luck)
    failed = 0
    for _ in range(400):
        try:
            list(cloud.stream(CloudRequest((ASKED,), max_tokens=4)))
        except CloudError:
            failed += 1
    assert 0.23 < failed / 400 < 0.37


def test_documents_are_split_at_their_headings():
    found = texts.documents()
    assert len(found) == 10
    assert found[0].startswith("When on board H.M.S. Beagle")
    assert all("== " not in document for document in found)


@pytest.mark.parametrize("content", [None, "no heading\n", "== heading alone"])
def test_a_text_without_documents_is_refused(tmp_path, content):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"text\.txt"):
        texts.documents(path)


def spelling(sender, request):
    """A server whose only model says "a" again and again, by /completions."""
    if request.method == "GET":
        hostile.models("m")(sender, request)
        return
    scores = {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1}]}
    choice = {"index": 0, "text": "a", "logprobs": scores, "finish_reason": None}
    end = {**choice, "text": "", "logprobs": None, "finish_reason": "length"}
    choices = [choice] * request.json["max_tokens"] + [end]
    chunks = [b"data: %s\n\n" % json.dumps({"choices": [each]}).encode() for each in choices]
    hostile.events(chunks)(sender, request)


def test_requests_to_a_server_are_counted_over_http(models, text, capsys):
    with hostile.HostileServer(spelling) as server:
        arguments = ["--model", models[0], "--text", text, "--tokens", "3", "--url", server.url]
        rows = results(fusion_http.main, arguments, capsys)
        asked = [request.json for request in server.requests if request.method == "POST"]
    assert [row["chunk_tokens"] for row in rows] == [1, 8, 16, 32] * 2
    assert all(body["logprobs"] == 20 and body["prompt"].startswith("the other") for body in asked)
    sent = sum(row["requests_per_token"] * row["tokens"] for row in rows)
    assert len(asked) == pytest.approx(sent) and sent > 0
    assert max(row["fused_share"] for row in rows) > 0
