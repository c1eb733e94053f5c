"""`ptmo ask`: one query through the pipeline."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import clouds, options, output
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from ptmo_secure.types import Answer


def ask(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The query; '-' reads stdin.")],
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
    explain: options.Explain = False,
    json: options.Json = False,
) -> None:
    """Answer one query, on this device or with a cloud that sees what may leave it.

    \b
    Examples:
      ptmo ask "What is Python?"
      ptmo ask "What is Python?" --shield none --explain
      ptmo ask "Write a haiku." --temperature 0.8 --top-p 0.9 --seed 7
      ptmo ask "What is Python?" --adapter mine=my-adapter
      ptmo ask - < question.txt
      ptmo ask "What is Python?" --json
      ptmo ask "My password is secret123. What is Python?" --cloud http://127.0.0.1:8766/v1
      ptmo ask "What is Python?" --cloud openai --cloud-model gpt-4o-mini --policy rl

    With --cloud, public parts go as they are and mixed requests with placeholders; private ones
    stay (docs/pipeline.md). DIR then holds the record of what left (ptmo audit), the caps, and the
    privacy budget. Keys come from the environment, e.g. OPENAI_API_KEY.

    The text of an argument is visible to other users of the machine in the list of processes;
    '-' is not.
    """
    query = read_query(text)
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
            answer = pipeline.answer(query, settings, on_text=None if json else output.write)
        if not json:
            output.write("\n")
        if explain:
            show_trace(answer)
        emit(answer.as_json())


def read_query(text: str) -> str:
    """The query itself, from stdin if it is '-'.

    Raises:
        InputError: it is empty or not valid UTF-8.
    """
    if text == "-":
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError:
            raise InputError("the prompt on stdin is not valid UTF-8") from None
    options.check_utf8("prompt", text)
    if not text.strip():
        raise InputError("the prompt is empty")
    return text


def show_trace(answer: "Answer") -> None:
    """Print the steps of an answer as a table on stderr."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{answer.level.value}, route {answer.route.value}, {answer.shield}")
    table.add_column("step")
    table.add_column("ms", justify="right")
    table.add_column("facts")
    for step in answer.trace:
        facts = ", ".join(f"{name} {value}" for name, value in step.facts.items())
        table.add_row(step.name, f"{step.ms:.1f}", Text(facts))
    table.add_row("[bold]wall[/bold]", f"{answer.wall_ms:.1f}", "")
    output.console(stderr=True).print(table)
