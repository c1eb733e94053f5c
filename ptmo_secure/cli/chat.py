"""`ptmo chat`: a conversation, typed or piped."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ptmo_secure.cli import clouds, options, output
from ptmo_secure.cli.ask import show_trace
from ptmo_secure.errors import InputError, PtmoError

if TYPE_CHECKING:
    from ptmo_secure.config import GenerationConfig
    from ptmo_secure.pipeline import HybridInferenceEngine, Message
    from ptmo_secure.types import Answer

_HELP = "alone on a line: /reset forgets the conversation, /quit (or end of input) ends it"


def chat(
    model: options.Model = options.DEFAULT_MODEL,
    shield: options.Shield = "seal",
    restore: options.Restore = "folded",
    kv_dtype: options.KvDtype = "int8",
    device: options.Device = "cpu",
    threads: options.Threads = None,
    max_tokens: options.MaxTokens = 256,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    stop: options.Stop = None,
    seed: options.Seed = None,
    system: options.System = None,
    adapter: options.Adapter = None,
    state: options.State = None,
    cloud: clouds.Cloud = None,
    cloud_model: clouds.CloudModel = None,
    providers: clouds.Providers = None,
    cloud_timeout: clouds.CloudTimeout = None,
    policy: clouds.Policy = "rule",
    cascade: clouds.Cascade = None,
    delegate: clouds.Delegate = False,
    hedge: clouds.Hedge = None,
    fuse: clouds.Fuse = False,
    cache: clouds.Cache = "off",
    explain: options.Explain = False,
    json: options.Json = False,
) -> None:
    """Talk with the model; /reset alone on a line makes it forget, /quit ends.

    \b
    Examples:
      ptmo chat
      ptmo chat --shield permute+seal --system "Answer in one sentence."
      printf 'My name is Ada.\\nWhat is my name?\\n' | ptmo chat
      printf 'Hello.\\n' | ptmo chat --json
      ptmo chat --cloud groq --explain

    With --json the turns come at the end, as {"turns": [...]}.
    """
    options.check_utf8("system prompt", system)
    adapters = options.adapter_paths(adapter)
    settings = options.generation(
        max_tokens, temperature, top_k, top_p, repetition_penalty, stop, seed, system, adapters
    )
    fields = options.engine_fields(shield, restore, kv_dtype, threads, device)
    asked = clouds.Asked(
        cloud,
        cloud_model,
        policy,
        cascade=cascade,
        delegate=delegate,
        hedge=hedge,
        fuse=fuse,
        cache=cache,
        state=state,
        providers=providers,
        timeout=cloud_timeout,
    )
    asked.check()
    fields = options.with_state(fields, state, model, adapters)
    with output.json_only(json) as emit:
        with (
            options.load_engine(model, fields) as engine,
            clouds.open_pipeline(engine, asked) as pipeline,
        ):
            options.load_adapters(engine, adapters)
            conversation = Conversation(pipeline, settings, quiet=json, explain=explain)
            for line in read_lines():
                if line == "/quit":
                    break
                if line == "/reset":
                    engine.reset()
                    conversation.forget()
                    pipeline.forget()
                elif line:
                    conversation.say(line)
        emit({"turns": [answer.as_json() for answer in conversation.answers]})


class Conversation:
    """The turns so far.

    Args:
        pipeline: answers them.
        settings: how.
        quiet: print nothing while answering.
        explain: show the trace of each turn.
    """

    def __init__(
        self,
        pipeline: "HybridInferenceEngine",
        settings: "GenerationConfig",
        *,
        quiet: bool = False,
        explain: bool = False,
    ) -> None:
        self._pipeline, self._settings = pipeline, settings
        self._quiet, self._explain = quiet, explain
        self._history: list[Message] = []
        self.answers: list[Answer] = []

    def forget(self) -> None:
        """Start over; the answers given stay on record."""
        self._history.clear()

    def say(self, text: str) -> None:
        """Answer one turn. At a terminal an error ends the turn, elsewhere the program.

        Raises:
            PtmoError: the turn failed and nobody is there to type another.
        """
        turn = {"role": "user", "content": text}
        on_text = None if self._quiet else output.write
        try:
            answer = self._pipeline.answer([*self._history, turn], self._settings, on_text)
        except PtmoError as failure:
            if not sys.stdin.isatty():
                raise
            output.error(str(failure), 1)
            return
        if not self._quiet:
            output.write("\n")
        if self._explain:
            show_trace(answer)
        self._history += [turn, {"role": "assistant", "content": answer.text}]
        self.answers.append(answer)


def read_lines() -> Iterator[str]:
    """Lines of the user's, stripped; with a prompt at a terminal.

    Raises:
        InputError: stdin is not valid UTF-8.
    """
    typed = sys.stdin.isatty()
    if typed:
        import readline  # noqa: F401 - gives input() line editing and a history

        output.note(_HELP)
    try:
        while True:
            line = input("> ") if typed else next(sys.stdin)
            options.check_utf8("prompt", line)
            yield line.strip()
    except (EOFError, StopIteration):
        return
    except UnicodeDecodeError:
        raise InputError("the prompt on stdin is not valid UTF-8") from None
