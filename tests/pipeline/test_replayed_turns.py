"""What stayed, stays: each earlier message is judged as it was when it was the last."""

import pytest
from worlds import MIXED, ScriptedEngine

from ptmo_secure.hybrid.memory import ALL, Memory
from ptmo_secure.types import Level, Route
from tests.cloud import hostile_server as hostile

PLAIN = "What is Python?"
WEATHER = "What is the weather in Paris?"
CLEAR = '{"city": "Paris", "sky": "clear"}'
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def user(text):
    return {"role": "user", "content": text}


def says(text):
    return {"role": "assistant", "content": text}


def calls(arguments, ident="c1", name="look_up"):
    function = {"name": name, "arguments": arguments}
    call = {"id": ident, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def result(text, ident="c1"):
    return {"role": "tool", "tool_call_id": ident, "content": text}


def texts(here):
    """What the cloud was asked last, by role and content."""
    return [(m["role"], m.get("content")) for m in here.bodies()[-1]["messages"]]


def test_a_turn_that_refers_to_a_withheld_one_is_never_told_nor_its_answer(make):
    hint = "It has nine characters, begins with the word secret and ends with three digits."
    talk = [user("My password is secret123."), says("Noted."), user("Is it strong?"), says(hint)]
    here = make()
    assert here.answer([*talk, user(PLAIN)]).route is Route.CLOUD
    assert texts(here) == [("user", PLAIN)]


def test_a_turn_about_oneself_after_a_withheld_one_is_never_told(make):
    talk = [user("I have diabetes and my name is Ada Lindqvist."), says("Noted.")]
    talk += [user("What did I tell you about my health?"), says("That sugar is bad for you.")]
    here = make()
    here.answer([*talk, user(PLAIN)])
    assert texts(here) == [("user", PLAIN)]


def test_a_turn_that_only_the_one_before_gives_away_is_never_told(make):
    talk = [says("What is your password?"), user("hunter22-Xy"), says("A bird of prey chases.")]
    here = make()
    here.answer([*talk, user(PLAIN)])  # nothing of it was the last message before
    assert texts(here) == [("assistant", "What is your password?"), ("user", PLAIN)]


def test_a_device_that_knows_something_withheld_is_not_quoted(make):
    here = make(engine=ScriptedEngine("The sky is as blue as your nine letters."))
    talk = [user("My password is secret123."), says("Noted."), user("Why is the sky blue?")]
    here.says(hostile.status(500), hostile.stream(["a language"]))
    talk += [says(here.answer(talk).text)]
    here.answer([*talk, user(PLAIN)])
    assert texts(here) == [("user", "Why is the sky blue?"), ("user", PLAIN)]


@pytest.mark.parametrize("query", ["Why?", "And then?", "Go on!", "\uc65c\uc694?"])
def test_a_message_that_says_nothing_alone_stays_with_what_it_follows(make, query):
    here = make()
    talk = [user("My password is secret123."), says("Noted."), user(query)]
    assert here.answer(talk).route is Route.LOCAL and here.bodies() == []
    assert here.answer([*talk, says("So."), user(query)]).route is Route.LOCAL  # a turn later too
    assert here.answer([*talk, says("So."), user(PLAIN)]).route is Route.CLOUD
    told = [*talk, says("So."), user(PLAIN), says("from the cloud"), user(query)]
    assert here.answer(told).route is Route.CLOUD  # it follows what the cloud was told
    assert texts(here)[-3:] == [("user", PLAIN), ("assistant", "from the cloud"), ("user", query)]
    assert here.answer([user(query)]).route is Route.CLOUD  # it follows nothing
    here.answer([*told, says("from the cloud"), user(PLAIN)])
    assert [text for _, text in texts(here)].count(query) == 1  # judged as when it was the last


def test_of_a_mixed_turn_the_clouds_own_words_are_told_and_not_the_devices(make):
    said = "My name is Ada Lindqvist. Is Lindqvist a rare name for me? How do I bake bread?"
    here = make(engine=ScriptedEngine("It begins with L."))
    talk = [user(said)]
    talk += [says(here.answer(talk).text)]
    assert talk[1]["content"] == "It begins with L.\n\nfrom the cloud"
    here.answer([*talk, user(PLAIN)])
    told = ["How do I bake bread?", "from the cloud", PLAIN]
    assert [text for _, text in texts(here)] == told


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("You could visit Amsterdam or Berlin.", "What should I see in Berlin?"),
        ("Bill Gates and Paul Allen founded it in 1975.", "When was Paul Allen born?"),
        ("It was painted by Leonardo da Vinci in Milan.", "Where was Leonardo da Vinci born?"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_names_of_a_clouds_answer_may_be_asked_about(make, answer, query, known):
    here = make(behaviour=hostile.stream([answer]))
    talk = [user("Give me an example.")]
    if known:
        assert here.answer(talk).text == answer
    asked = here.answer([*talk, says(answer), user(query)])
    assert asked.route is Route.CLOUD
    roles = [role for role, _ in texts(here)]
    assert roles == ["user", "assistant", "user"] and texts(here)[-1] == ("user", query)
    if known:
        assert texts(here)[1] == ("assistant", answer)


def test_a_result_is_asked_about_with_its_own_role_and_its_call(make):
    here = make()
    answer = here.answer([user(WEATHER), calls('{"city":"Paris"}'), result("21 degrees, sunny")])
    assert answer.route is Route.CLOUD
    sent = here.bodies()[0]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool"]
    (call,) = sent[1]["tool_calls"]
    assert call["function"] == {"name": "look_up", "arguments": '{"city": "Paris"}'}
    assert (sent[2]["content"], sent[2]["tool_call_id"]) == ("21 degrees, sunny", call["id"])


def test_values_of_a_result_go_masked_and_come_back(make):
    here = make(behaviour=hostile.stream(["Write to [EMAIL_1]."]))
    found = '{"name":"Maria Lopez","email":"maria.lopez@example.com"}'
    answer = here.answer([user("Look up the customer."), calls("{}"), result(found)])
    assert (answer.route, answer.level) == (Route.HYBRID, Level.SEMI_SENSITIVE)
    assert texts(here)[-1] == ("tool", '{"name":"[PERSON_1]","email":"[EMAIL_1]"}')
    assert answer.text == "Write to maria.lopez@example.com."
    assert answer.masked == {"PERSON": 1, "EMAIL": 1}


def test_a_city_of_the_question_may_stand_in_a_call_and_its_result(make):
    here = make(behaviour=hostile.stream(["Sunny."]))
    talk = [user(WEATHER), calls('{"city":"Paris"}'), result(CLEAR)]
    assert here.answer(talk).route is Route.CLOUD
    assert texts(here)[2] == ("tool", CLEAR)
    asked = here.answer([*talk, says("Sunny."), user("How many people live in Paris?")])
    assert (asked.route, len(texts(here))) == (Route.CLOUD, 5)
    found = '{"city": "Paris", "host": "Maria Lopez", "pin": 4821}'
    assert here.answer([*talk[:2], result(found)]).route is not Route.CLOUD
    assert b"Lopez" not in here.server.received and b"4821" not in here.server.received


@pytest.mark.parametrize(
    "said",
    ["My password is secret123. Check how often it leaked.", "I have HIV. Find my appointment."],
)
def test_a_result_for_a_withheld_turn_stays(make, said):
    here = make()
    told = result("found in 3 breaches; 9 characters, starts with secret")
    answer = here.answer([user(said), calls('{"id":7}'), told])
    assert (answer.text, answer.route) == ("from the device", Route.LOCAL)
    assert here.server.received == b""
    assert here.engine.prompts[-1][-1]["content"] == told["content"]


def test_a_result_that_tells_a_situation_stays_and_what_refers_to_it(make):
    here = make()
    talk = [user("Find the next appointment."), calls("{}"), result("I was fired yesterday.")]
    assert here.answer(talk).route is Route.LOCAL
    talk += [says("Your job is over."), user("Is it final?")]
    assert here.answer(talk).route is Route.LOCAL
    assert here.server.received == b""


def test_an_answer_that_is_last_is_no_question_of_the_users(make):
    here = make()
    here.answer([user(PLAIN), says("A language.")])
    assert texts(here) == [("user", PLAIN), ("assistant", "A language.")]
    here.server.forget()
    assert here.answer([user("My password is secret123."), says("Noted.")]).route is Route.LOCAL
    assert here.server.received == b""


def test_one_query_that_tells_and_asks_about_oneself_stays(make):
    here = make(engine=ScriptedEngine("Maria Lopez."))
    answer = here.answer("My name is Maria Lopez. What is my name?")
    assert (answer.text, answer.route) == ("Maria Lopez.", Route.LOCAL)
    assert here.server.received == b""
    here.answer("My password is secret123. How do I bake bread?")
    assert here.sent() == ["How do I bake bread?"]


def test_no_answer_is_told_without_what_it_answers(make):
    here = make()
    talk = [user("Who is Lindqvist in the novel?"), says("A detective in a small town.")]
    here.answer(talk[:1])
    here.answer("My name is Lindqvist. Write a letter from Ada Lindqvist to the bank.")
    here.answer([*talk, user("Why is the sky blue?")])
    told = texts(here)
    assert ("user", talk[0]["content"]) not in told
    assert ("assistant", talk[1]["content"]) not in told


def test_a_wish_is_found_where_old_messages_or_the_system_prompt_changed():
    memory, kept = Memory(), user("The recipe uses rye.")
    memory.note("ann", [kept], (), local=True)
    for before in ([], [{"role": "system", "content": "x"}], [user("a"), says("b")]):
        assert memory.wish("ann", [*before, kept, says("c")], len(before)) == ALL
    assert memory.wish("bob", [kept], 0) is None
    memory.note("ann", [kept], ())  # its user sends it after all
    assert memory.wish("ann", [kept], 0) == frozenset()
    assert memory.wish("ann", [user("a"), says("b"), kept], 2) == ALL


def test_a_local_request_keeps_what_no_other_brought():
    memory, told, kept = Memory(), [user("a"), says("b")], [user("c"), says("d"), user("e")]
    memory.note("ann", told[:1], ())
    memory.note("ann", [*told, *kept], (), local=True)
    wishes = [memory.wish("ann", [*told, *kept], at) for at in range(5)]
    assert wishes == [None, ALL, ALL, ALL, ALL]
    memory.note("ann", [*told, *kept, says("f"), user("g")], (3,), marked={0})
    assert memory.wish("ann", told, 0) == ALL
    assert memory.wish("ann", [*told, *kept, says("f"), user("g")], 6) == {3}


@pytest.mark.parametrize("prompt", [[], [{"role": "system", "content": "Write of green boats."}]])
def test_the_same_words_elsewhere_take_back_nothing_of_a_local_request(make, prompt):
    here, hello = make(engine=ScriptedEngine("Boats are green.")), [user("Hello")]
    said = here.pipeline.answer([*prompt, *hello], user="ann", local_only=True)
    assert here.pipeline.answer(hello, user="ann").route is Route.CLOUD  # in another conversation
    here.pipeline.answer([*prompt, *hello, says(said.text), user(PLAIN)], user="ann")
    assert texts(here)[-1] == ("user", PLAIN) and b"reen" not in here.server.received
    here.pipeline.answer([*hello, says("from the cloud"), user(PLAIN)], user="ann")
    assert [text for _, text in texts(here)] == ["Hello", "from the cloud", PLAIN]


@pytest.mark.parametrize("query", ["My password is secret123.", "The recipe uses rye."])
def test_an_answer_that_stayed_stays_where_its_question_is_left_out(make, query):
    here = make(engine=ScriptedEngine("Nine letters of rye."))
    talk = [user(query)]
    talk += [says(here.pipeline.answer(talk, user="ann", local_only=True).text), user(PLAIN)]
    hello = [user("Hello"), says("Hello.")]
    for messages in (talk[1:], [*hello, *talk[1:]], talk, [says("Hello."), *talk[2:]]):
        assert here.pipeline.answer(messages, user="ann").route is Route.CLOUD
    assert texts(here) == [("assistant", "Hello."), ("user", PLAIN)]
    assert b"Nine" not in here.server.received


def test_an_answer_before_a_local_request_stays_where_its_question_is_left_out(make):
    here, talk = make(), [user("What of rye?"), says("Nine letters."), user(PLAIN)]
    here.pipeline.answer(talk, user="ann", local_only=True)
    here.pipeline.answer([*talk[1:2], user("Why is the sky blue?")], user="ann")
    assert texts(here) == [("user", "Why is the sky blue?")]


def test_a_system_prompt_stays_with_a_message_kept_in_part_and_whole():
    memory, prompt = Memory(), {"role": "system", "content": "x"}
    memory.note("ann", [user("a"), says("b"), user("c")], {0})
    memory.note("ann", [prompt, user("c")], (), local=True)
    assert ALL <= memory.wish("ann", [user("d"), says("e"), user("c")], 2)
    memory.note("ann", [prompt, user("c")], ())  # taken back, in its place
    assert memory.wish("ann", [prompt, user("c")], 1) == frozenset()
    assert memory.was_kept("ann", user("c")) and not memory.was_kept("bob", user("c"))


def test_the_memory_is_bounded_and_holds_no_value(make, monkeypatch):
    from ptmo_secure.hybrid import memory

    monkeypatch.setattr(memory, "MAX_WORDS_CHARS", 4000)
    monkeypatch.setattr(memory, "MAX_WISHES", 10)
    here = make(behaviour=hostile.stream(["Dear [PERSON_1], your secret."]))
    for number in range(15):
        query = f"Write an email to Dr. Andre Novak about roof {number}."
        here.answer([user(query)])
        here.pipeline._planner.note([user(query)], "default", local=True)
    kept = here.pipeline._planner._reader.memory
    assert 0 < len(kept._words) < 15 and len(kept._wishes) == 10
    assert "Novak" not in repr(vars(kept._words)) and "[PERSON_1]" in repr(vars(kept._words))
    assert "roof" not in repr(vars(kept._wishes))


def test_a_guard_that_forgot_its_vault_quotes_no_placeholder_of_it(make):
    here = make(behaviour=hostile.stream(["Dear [PERSON_1]."]))
    talk = [user("Write an email to Dr. Andre Novak about the roof.")]
    talk += [says(here.answer(talk).text)]
    here.pipeline.forget()
    here.answer([*talk, user("Write an email to Mira Holmberg about the roof.")])
    assert texts(here)[1:] == [
        ("user", "Write an email to [PERSON_2] about the roof."),
        ("assistant", "Dear ...."),
        ("user", "Write an email to [PERSON_1] about the roof."),
    ]


def test_what_a_policy_or_a_failure_kept_here_may_be_told_later(make):
    here = make(behaviour=hostile.status(500))
    talk = [user("Why is the sky blue?")]
    talk += [says(here.answer(talk).text)]
    here.says(hostile.stream(["a language"]))
    here.answer([*talk, user(PLAIN)])
    assert [text for _, text in texts(here)] == ["Why is the sky blue?", "from the device", PLAIN]


def test_the_mixed_part_of_a_conversation_is_told_as_it_was(make):
    here = make()
    talk = [user(MIXED)]
    talk += [says(here.answer(talk).text), user("Why is the sky blue?")]
    assert here.answer(talk).route is Route.CLOUD
    assert [text for _, text in texts(here)] == [PLAIN, "from the cloud", "Why is the sky blue?"]
