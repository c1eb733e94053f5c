"""`ptmo serve --cloud` as a process, asked by the unmodified client, with a server on loopback."""

import json

import pytest

from tests.cloud import hostile_server as hostile
from tests.serve.serving import ServeProcess, text_of
from tests.tiny_models import make_tiny_model

PLAIN = "What is Python?"
RECIPE = "The bakery recipe uses cardamom and rye. What goes with rye?"
WEATHER = "What is the weather in Paris?"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def cloud():
    with hostile.HostileServer(hostile.stream(["from ", "the cloud"])) as listening:
        yield listening


@pytest.fixture(scope="module")
def process(cloud, tmp_path_factory):
    model = make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1", context_length=2048).path
    arguments = ("--model", str(model), "--threads", "1", "--cloud", cloud.url)
    arguments += ("--cloud-model", "big")
    with ServeProcess(tmp_path_factory.mktemp("state"), *arguments) as running:
        yield running
        assert running.end()[0] == 0


class Talk:
    """A conversation of one user as a client holds it: every request brings all of it."""

    def __init__(self, process, cloud, name) -> None:
        self.client, self.cloud = process.served.client(), cloud
        self.model, self.served = self.client.models.list().data[0].id, process.served
        self.name, self.messages = name, []
        cloud.forget()
        cloud.script, cloud.default = [], hostile.stream(["from ", "the cloud"])

    def say(self, text, *, stream=False, **more):
        """Say something; return `x_ptmo` of the answer."""
        self.messages.append({"role": "user", "content": text})
        return self.ask(stream=stream, **more)

    def ask(self, *, stream=False, tools=(), **x_ptmo):
        given = {"model": self.model, "max_tokens": 4, "temperature": 0, "user": self.name}
        given |= {"tools": list(tools)} if tools else {}
        given |= {"extra_body": {"x_ptmo": x_ptmo}} if x_ptmo else {}
        answer = self.client.chat.completions.create(messages=self.messages, stream=stream, **given)
        if stream:
            chunks = list(answer)
            self.messages.append({"role": "assistant", "content": text_of(chunks)})
            return next(chunk.x_ptmo for chunk in chunks if getattr(chunk, "x_ptmo", None))
        self.messages.append(answer.choices[0].message.model_dump(exclude_none=True))
        return answer.x_ptmo

    def preview(self, text, **more):
        messages = [*self.messages, {"role": "user", "content": text}]
        body = {"messages": messages, "user": self.name, **more}
        status, told, _ = self.served.post("/x-ptmo/preview", body)
        assert status == 200
        return told

    def asked(self):
        """What the cloud got last, by role and content."""
        return [(m["role"], m["content"]) for m in self.bodies()[-1]["messages"]]

    def bodies(self):
        return [request.json for request in self.cloud.requests if request.body]


@pytest.fixture
def talk(process, cloud, request):
    return Talk(process, cloud, request.node.name[:60])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wish", [{"route": "local"}, {"keep_local": [0]}])
def test_what_its_user_keeps_never_leaves(talk, stream, wish):
    assert talk.say(RECIPE, stream=stream, **wish)["route"] == "local"
    hint = talk.messages[-1]["content"]
    for question in (PLAIN, "Why is the sky blue?"):
        told = talk.preview(question)["request"]["messages"]
        assert talk.say(question, stream=stream)["route"] == "cloud"
        assert talk.bodies()[-1]["messages"] == told
    assert b"bakery" not in talk.cloud.received and b"cardamom" not in talk.cloud.received
    assert [role for role, _ in talk.asked()] == ["user", "assistant", "user"]
    assert hint not in [text for _, text in talk.asked()]


def test_a_kept_part_stays_and_the_rest_is_told_as_it_was(talk):
    query = "What is Rust? My password is secret123. Why is the sky blue?"
    parts = talk.preview(query)["segments"]
    goes = [part["order"] for part in parts if part["sent"] is not None]
    assert len(goes) > 1
    talk.say(query, keep_local=goes[:1])
    first = talk.asked()
    talk.say(PLAIN)
    assert talk.asked()[:2] == [*first, ("assistant", "from the cloud")]
    assert parts[goes[0]]["text"].encode() not in talk.cloud.received


def test_a_client_says_which_earlier_messages_it_kept(talk):
    talk.messages = [
        {"role": "user", "content": RECIPE},
        {"role": "assistant", "content": "Butter"},
    ]
    told = talk.preview(PLAIN, x_ptmo={"keep_messages": [0]})
    assert [m["content"] for m in told["request"]["messages"]] == [PLAIN]
    talk.say(PLAIN, keep_messages=[0])
    assert talk.asked() == [("user", PLAIN)]
    talk.say("Why is the sky blue?")  # it need not say so again
    assert [text for _, text in talk.asked()] == [PLAIN, "from the cloud", "Why is the sky blue?"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_refers_to_something_withheld_stays_with_its_answer(talk, stream):
    for text in ("My password is secret123.", "Is it strong?"):
        assert talk.say(text, stream=stream)["route"] == "local"
    assert talk.say(PLAIN, stream=stream)["route"] == "cloud"
    assert talk.asked() == [("user", PLAIN)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["My password is secret123.", RECIPE])
def test_a_local_answer_stays_where_its_question_is_left_out(talk, text, stream):
    assert talk.say(text, stream=stream, route="local")["route"] == "local"
    del talk.messages[0]
    assert talk.say(PLAIN, stream=stream)["route"] == "cloud"
    assert talk.asked() == [("user", PLAIN)]


def test_a_preview_shows_all_that_is_sent(talk):
    system = {"role": "system", "content": "Answer in one line. Write to maria.lopez@example.com."}
    talk.messages = [system]
    talk.say("Write an email to Andre Novak about the roof.")
    query = "Write an email to Andre Novak about the weather."
    told = talk.preview(query, tools=[TOOL])
    assert told["request"]["tools"] == [TOOL]
    assert len(talk.bodies()) == 1  # the preview sent nothing
    talk.messages.append({"role": "user", "content": query})
    talk.ask(tools=[TOOL])
    body = talk.bodies()[-1]
    assert (body["messages"], body["tools"]) == (told["request"]["messages"], [TOOL])
    shown = json.dumps(told["request"])
    assert "[EMAIL_1]" in shown and "Novak" not in shown and "lopez" not in shown
    assert talk.preview("My password is secret123.")["request"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_asked_about(talk, stream):
    function = {"name": "look_up", "arguments": '{"city":"Paris"}'}
    piece = {"index": 0, "id": "call_9", "type": "function", "function": function}
    events = [hostile.event({"tool_calls": [piece]}), hostile.event({}, "tool_calls")]
    talk.cloud.script = [hostile.events(events)]
    talk.messages.append({"role": "user", "content": WEATHER})
    talk.ask(tools=[TOOL])
    (call,) = talk.messages[-1]["tool_calls"]
    assert call["function"] == {"name": "look_up", "arguments": '{"city": "Paris"}'}
    found = '{"city": "Paris", "sky": "clear", "host": "maria.lopez@example.com"}'
    talk.messages.append({"role": "tool", "tool_call_id": call["id"], "content": found})
    talk.cloud.default = hostile.stream(["Clear, says [EMAIL_1]."])
    talk.ask(tools=[TOOL], stream=stream)
    sent = talk.bodies()[-1]["messages"][-3:]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["function"] == function
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"]
    assert sent[2]["content"] == found.replace("maria.lopez@example.com", "[EMAIL_1]")
    assert talk.messages[-1]["content"] == "Clear, says maria.lopez@example.com."
    talk.say("How many people live in Paris?", tools=[TOOL])
    assert [m["role"] for m in talk.bodies()[-1]["messages"]][-5:] == [
        *("user", "assistant", "tool", "assistant", "user"),
    ]
    assert b"lopez" not in talk.cloud.received


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_with_a_name_that_looks_private_is_called_by_another(talk, stream):
    parameters = {"type": "object", "properties": {"url": {"type": ["string", "null"]}}}
    named = {"name": "fetch_url", "description": "As fetch_url does.", "parameters": parameters}
    tool = {"type": "function", "function": named}
    sent = {**tool, "function": {**named, "name": "tool_1", "description": "As tool_1 does."}}
    function = {"name": "tool_1", "arguments": '{"url":"x"}'}
    piece = {"index": 0, "id": "call_9", "type": "function", "function": function}
    events = [hostile.event({"tool_calls": [piece]}), hostile.event({}, "tool_calls")]
    talk.cloud.script = [hostile.events(events)]
    assert talk.preview(WEATHER, tools=[tool])["request"]["tools"] == [sent]
    talk.messages.append({"role": "user", "content": WEATHER})
    given = {"model": talk.model, "messages": talk.messages, "user": talk.name}
    answer = talk.client.chat.completions.create(
        tools=[tool], tool_choice="auto", stream=stream, **given
    )
    if stream:
        chunks = [chunk.choices[0].delta for chunk in answer if chunk.choices]
        (call,) = [one for delta in chunks for one in delta.tool_calls or ()]
    else:
        (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("fetch_url", {"url": "x"})
    own = {"id": call.id, "type": "function", "function": call.function.model_dump()}
    talk.messages.append({"role": "assistant", "content": None, "tool_calls": [own]})
    result = {"role": "tool", "tool_call_id": call.id, "name": "fetch_url", "content": "clear"}
    talk.messages.append(result)
    assert talk.ask(tools=[tool])["route"] == "cloud"
    body = talk.bodies()[-1]
    assert body["tools"] == [sent] and body["messages"][1]["tool_calls"][0]["function"] == function
    assert b"fetch_url" not in talk.cloud.received


SYSTEM = {"role": "system", "content": "Answer as the bakery's helper, in one line."}


def test_a_system_prompt_of_a_local_request_stays_with_its_conversation(talk):
    talk.messages = [SYSTEM]
    assert talk.say(RECIPE, route="local")["route"] == "local"
    later = talk.preview(PLAIN)["request"]["messages"]
    assert talk.say(PLAIN)["route"] == "cloud"
    assert talk.asked() == [("user", PLAIN)] == [(m["role"], m["content"]) for m in later]
    talk.say("What is Rust?")  # that the conversation brought it again has told it nobody
    assert b"bakery" not in talk.cloud.received
    talk.messages = [SYSTEM]  # another conversation, whose user keeps nothing
    told = talk.preview(PLAIN)["request"]["messages"]
    assert [(m["role"], m["content"]) for m in told] == [
        (SYSTEM["role"], SYSTEM["content"]),
        ("user", PLAIN),
    ]
    talk.say(PLAIN)
    assert talk.bodies()[-1]["messages"] == told


def test_a_system_prompt_that_left_before_a_local_request_goes_on_being_told(talk):
    talk.messages = [SYSTEM]
    talk.say(PLAIN)
    talk.say(RECIPE, route="local")
    talk.say("What is Rust?")
    assert talk.asked()[0] == (SYSTEM["role"], SYSTEM["content"])
    assert b"cardamom" not in talk.cloud.received


def test_a_result_for_a_withheld_turn_stays(talk):
    said = "My password is secret123. Check how often it leaked."
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    talk.messages = [
        {"role": "user", "content": said},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "9 characters, starts with secret"},
    ]
    assert talk.ask()["route"] == "local"
    assert talk.bodies() == []
    assert talk.say(PLAIN)["route"] == "cloud"
    assert talk.asked() == [("user", PLAIN)]
