"""Chat templates render as transformers renders them, and user text cannot forge a turn."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.engine.chat_template import ChatTemplate, _shield
from ptmo_secure.engine.gguf_file import GgufFile
from ptmo_secure.engine.registry import resolve
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.errors import InputError, ModelFormatError
from tests.tiny_models import tokenizer_metadata

USER = [{"role": "user", "content": "hello"}]


def _template(text: str | None = None, **changes: object) -> tuple[ChatTemplate, Tokenizer]:
    if text is not None:
        changes["tokenizer.chat_template"] = text
    metadata = tokenizer_metadata(**changes)
    tokenizer = Tokenizer(metadata)
    return ChatTemplate(metadata, tokenizer, "m.gguf"), tokenizer


TEMPLATE, TOKENIZER = _template()


@pytest.fixture(scope="module")
def smollm2() -> tuple[ChatTemplate, Tokenizer]:
    try:
        path = resolve("smollm2-135m")
    except InputError as error:
        pytest.skip(str(error))
    with GgufFile(path) as file:
        tokenizer = Tokenizer(file.metadata)
        return ChatTemplate(file.metadata, tokenizer), tokenizer


def test_smollm2_adds_its_default_system_prompt(smollm2: tuple[ChatTemplate, Tokenizer]) -> None:
    template, tokenizer = smollm2
    assert template.origin == "file"
    prompt = template.render([{"role": "user", "content": "What is Python?"}])
    expected = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is Python?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.text == expected
    assert list(prompt.ids) == tokenizer.encode_with_special(expected)
    own = template.render([{"role": "system", "content": "Be brief."}, *USER])
    assert "named SmolLM" not in own.text


def test_rendering_equals_transformers(smollm2: tuple[ChatTemplate, Tokenizer]) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template, _ = smollm2
    messages = [
        {"role": "user", "content": "  spaced\n\n1. "},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "again"},
    ]
    rendered, _ = render_jinja_template(
        conversations=[messages], chat_template=template._text, add_generation_prompt=True
    )
    assert template.render(messages).text == rendered[0]


def test_block_whitespace_is_trimmed_as_transformers_trims_it() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    text = (
        "{{ bos_token }}\n{% for m in messages %}\n    {% if m.role == 'user' %}\n"
        "U:{{ m.content | trim }}\n    {% else %}\nA:{{ m.content | tojson }}\n    {% endif %}\n"
        "{% endfor %}\n{% if add_generation_prompt %}\nA:{% endif %}"
    )
    template, _ = _template(text)
    messages = [
        {"role": "user", "content": " \n hi there \n"},
        {"role": "assistant", "content": 'é "q"'},
    ]
    rendered, _ = render_jinja_template(
        conversations=[messages],
        chat_template=text,
        add_generation_prompt=True,
        bos_token="<|im_start|>",
    )
    assert template.render(messages).text == rendered[0]


@given(
    content=st.lists(
        st.sampled_from(
            ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|im_", "end|>", "<", "system\n", " "]
        ),
        max_size=8,
    ).map("".join)
)
@settings(max_examples=200, deadline=None)
def test_a_message_never_yields_a_control_token(content: str) -> None:
    plain = TEMPLATE.render([{"role": "user", "content": "x"}])
    prompt = TEMPLATE.render([{"role": "user", "content": content}])
    controls = [index for index in prompt.ids if TOKENIZER.is_control(index)]
    assert controls == [index for index in plain.ids if TOKENIZER.is_control(index)] == [1, 2, 1]
    assert prompt.text == plain.text.replace("user\nx", "user\n" + content)
    assert TOKENIZER.decode(prompt.ids, skip_special=False) == prompt.text


@given(content=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=200, deadline=None)
def test_spans_cover_the_content_and_nothing_of_the_template(content: str) -> None:
    prompt = TEMPLATE.render([{"role": "user", "content": content}])
    covered = b"".join(
        TOKENIZER.token_bytes(index)
        for index, inside in zip(prompt.ids, prompt.content_mask, strict=True)
        if inside
    ).decode("utf-8", errors="ignore")
    assert covered in content
    # At most the tokens at either boundary, which may hold template text too, are left out.
    assert len(covered) >= len(content.strip()) - 12


def test_each_span_names_its_message() -> None:
    messages = [
        {"role": "system", "content": "the rules"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "user"},
    ]
    prompt = TEMPLATE.render(messages)
    texts = [(s.message, TOKENIZER.decode(prompt.ids[s.start : s.end])) for s in prompt.spans]
    assert texts == [(0, "the rules"), (1, "hello"), (3, "user")]


def test_tokens_across_the_boundary_belong_to_the_template() -> None:
    prompt = TEMPLATE.render([{"role": "user", "content": "\nhi"}])
    assert [TOKENIZER.token_text(i) for i in prompt.ids[1:4]] == ["user", "Ċ", "Ċ"]
    merged, _ = _template("{% for m in messages %}t{{ m.content }}{% endfor %}")
    ids = merged.render([{"role": "user", "content": "on"}])
    assert TOKENIZER.decode(ids.ids) == "ton"
    half, _ = _template("{% for m in messages %}o{{ m.content }}{% endfor %}")
    prompt = half.render([{"role": "user", "content": "ns"}])
    assert [TOKENIZER.token_text(i) for i in prompt.ids] == ["on", "s"]
    assert prompt.content_mask == [False, True]


def test_text_parts_are_joined_before_the_template_sees_them() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert TEMPLATE.render([{"role": "user", "content": parts}]) == TEMPLATE.render(USER)


def test_a_leading_bos_is_added_once() -> None:
    wants = {"tokenizer.ggml.add_bos_token": True}
    without, _ = _template("{% for m in messages %}{{ m.content }}{% endfor %}", **wants)
    prompt = without.render(USER)
    assert prompt.ids[:2].count(1) == 1
    assert [TOKENIZER.decode(prompt.ids[s.start : s.end]) for s in prompt.spans] == ["hello"]
    own, _ = _template("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}", **wants)
    assert own.render(USER).ids == prompt.ids


def test_without_a_template_chatml_or_plain_lines_are_used() -> None:
    missing = {"tokenizer.chat_template": None}
    template, _ = _template(**missing)
    assert template.origin == "chatml"
    assert template.render(USER).text == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    kinds = tokenizer_metadata()["tokenizer.ggml.token_type"]
    plain, _ = _template(**missing, **{"tokenizer.ggml.token_type": kinds * 0 + 1})  # type: ignore[operator]
    assert plain.origin == "plain"
    assert plain.render(USER).text == "user: hello\nassistant:"


def _gemma(**changes: object) -> tuple[ChatTemplate, Tokenizer]:
    """A template over a vocabulary with Gemma's control tokens in the place of ChatML's."""
    tokens = list(tokenizer_metadata()["tokenizer.ggml.tokens"])  # type: ignore[call-overload]
    tokens[1:3] = ["<start_of_turn>", "<end_of_turn>"]
    return _template(
        **{"tokenizer.chat_template": None, "tokenizer.ggml.tokens": tokens, **changes}
    )


# What Gemma 3's own files say, in its meaning for text messages.
GEMMA_FILE_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}"""


def test_gemmas_turns_are_used_where_the_vocabulary_has_them() -> None:
    wants_bos = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 0}
    built_in, tokenizer = _gemma(**wants_bos)
    assert built_in.origin == "gemma"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  hello \n"},
        {"role": "assistant", "content": "lo"},
        {"role": "user", "content": "the <end_of_turn>"},
    ]
    prompt = built_in.render(messages)
    assert prompt.text == (
        "<start_of_turn>user\nBe brief.\n\nhello<end_of_turn>\n<start_of_turn>model\nlo"
        "<end_of_turn>\n<start_of_turn>user\nthe <end_of_turn><end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    own, _ = _gemma(**wants_bos, **{"tokenizer.chat_template": GEMMA_FILE_TEMPLATE})
    assert own.origin == "file"
    assert own.render(messages).ids == prompt.ids
    assert prompt.ids[0] == tokenizer.bos_id
    assert prompt.ids.count(2) == 3  # the name of a control token in a message stays text
    with pytest.raises(InputError, match="do not alternate"):
        built_in.render([messages[1], messages[1]])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        ("hello", "must be a list, not str"),
        ({"role": "user"}, "must be a list, not dict"),
        (["hello"], r"messages\[0\] must be an object"),
        ([{"content": "x"}], r"messages\[0\].role"),
        ([{"role": 3, "content": "x"}], r"messages\[0\].role"),
        ([{"role": "user<|im_end|>", "content": "x"}], r"messages\[0\].role"),
        ([*USER, {"role": "user", "content": None}], r"messages\[1\].content must be text"),
        ([{"role": "user", "content": 5}], "not int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\] must be"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], r"content\[0\]"),
        ([{"role": "user", "content": "a\ud800"}], "lone surrogate"),
    ],
)
def test_malformed_messages_are_refused(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TEMPLATE.render(messages)
    assert "\n" not in str(caught.value)


def test_a_template_may_refuse_messages() -> None:
    template, _ = _template("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError, match="refused it: roles must alternate"):
        template.render(USER)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include 'x' %}",
        "{{ 1 / 0 }}",
        "{{ messages[9].content + 1 }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_is_an_input_error(text: str) -> None:
    template, _ = _template(text)
    with pytest.raises(InputError, match="the chat template"):
        template.render(USER)


def test_broken_and_endless_templates_are_refused() -> None:
    with pytest.raises(ModelFormatError, match=r"m\.gguf: tokenizer\.chat_template"):
        _template("{% for x in %}")
    with pytest.raises(ModelFormatError, match="not a text"):
        _template(**{"tokenizer.chat_template": 5})
    endless, _ = _template(
        "{% for a in range(9999) %}{% for b in range(9999) %}xxxxxxxx{% endfor %}{% endfor %}"
    )
    with pytest.raises(ModelFormatError, match="runs without end"):
        endless.render(USER)


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception(messages[0]['content']) }}",
        "{{ {}[messages[0]['content']].x }}",
        "{{ messages | groupby(messages[0]['content']) | list | first | string / 2 }}",
    ],
)
def test_an_error_of_a_template_quotes_no_message(text: str) -> None:
    template, _ = _template(text)
    with pytest.raises(InputError, match=r"m\.gguf: the chat template refused it") as caught:
        template.render([{"role": "user", "content": "my password is secret123"}])
    assert "secret123" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 9**(9**9) }}",
        "{{ 'a' * ((messages | length) * 3000000000) }}",
        "{{ 'a' * 100000000000 }}",
        "{{ [1] * 100000000000 }}",
        "{{ 3000000000 * 'a' }}",
        "{{ 'a' | center(100000000) }}",
        "{{ 'a'.ljust(100000000) }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(40) }}",
    ],
)
@pytest.mark.timeout(60)  # what is not refused runs for hours
def test_a_template_that_takes_too_much_is_refused_by_file(text: str) -> None:
    with pytest.raises(InputError, match=r"^m\.gguf: "):
        _template(text)[0].render(USER)


def test_failures_of_the_machine_name_the_file() -> None:
    deep = "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"
    with pytest.raises(ModelFormatError, match=r"^m\.gguf: tokenizer\.chat_template"):
        _template(deep)
    nested = "{% for a in messages %}" * 30 + "{% endfor %}" * 30
    with pytest.raises(ModelFormatError, match=r"^m\.gguf: tokenizer\.chat_template"):
        _template(nested)


def test_small_arithmetic_and_loop_variables_still_work() -> None:
    template, _ = _template(
        "{{ 2 ** 10 }} {{ '-' * 3 }} {{ 6 * 7 }}"
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{% endfor %}"
    )
    assert template.render([*USER, *USER]).text == "1024 --- 421/2False2/2True"


def _shield_by_definition(text: str, control: re.Pattern[str], shield: str) -> str:
    position = 0
    while (match := control.search(text, position)) is not None:
        cut = match.start() + 1
        text = text[:cut] + shield + text[cut:]
        position = cut + 1
    return text


@given(text=st.text(alphabet="<|>a", max_size=24))
@settings(max_examples=300, deadline=None)
def test_shielding_breaks_overlapping_names_too(text: str) -> None:
    control = re.compile(r"<\|a\|>|<\|a|\|><\||aa|>")
    assert _shield(text, control, "#") == _shield_by_definition(text, control, "#")


@pytest.mark.timeout(60)  # in quadratic time this takes minutes
def test_shielding_does_not_slow_down_with_the_length_of_the_text() -> None:
    shielded = _shield("<|im_end|>" * 400_000, TOKENIZER.control_pattern, "#")
    assert shielded == "<#|im_end|>" * 400_000
