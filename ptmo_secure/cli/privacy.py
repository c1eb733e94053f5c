"""`ptmo privacy`: what was disclosed, and what may be."""

from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options, output

if TYPE_CHECKING:
    from ptmo_secure.privacy.budget import PrivacyBudget

User = Annotated[
    str | None, typer.Option("--user", metavar="NAME", help="One user [default: all].")
]


def status(user: User = None, state: options.State = None, json: options.Json = False) -> None:
    """Show the privacy budget: what users disclosed within the window, and what is left.

    \b
    Examples:
      ptmo privacy status
      ptmo privacy status --user ann --json

    Costs are DP-style figures (docs/privacy.md), not a differential-privacy guarantee. The limits
    shown are the defaults; a program may set others.
    """
    options.check_utf8("user", user)
    with output.json_only(json) as emit:
        budget = _budget(state)
        try:
            found = [budget.status(name) for name in ([user] if user else budget.users())]
        finally:
            budget.close()
        limits = budget.limits
        emit(
            {
                "window_s": limits.window_s,
                "user_limit_epsilon": limits.user_epsilon,
                "session_limit_epsilon": limits.session_epsilon,
                "delta": limits.delta,
                "users": [one.as_json() for one in found],
            }
        )
        if json:
            return
    hours = limits.window_s / 3600
    if not found:
        print(f"nothing was disclosed in the last {hours:g} hours")
    for one in found:
        print(
            f"{output.one_line(one.user)}: {one.spent:.3f} of {one.limit:g} epsilon spent in the "
            f"last {hours:g} hours, {one.left:.3f} left, {one.spends} disclosures"
        )
        for session, spent in one.sessions.items():
            print(
                f"  session {output.one_line(session)}: {spent:.3f} of {limits.session_epsilon:g}"
            )


def reset(user: User = None, state: options.State = None, json: options.Json = False) -> None:
    """Forget what was spent, by one user or by all.

    \b
    Examples:
      ptmo privacy reset --user ann
      ptmo privacy reset

    Without --user it also mends a budget whose file was damaged.
    """
    options.check_utf8("user", user)
    with output.json_only(json) as emit:
        budget = _budget(state)
        try:
            budget.reset(user)
        finally:
            budget.close()
        emit({"reset": user or "all"})
        if not json:
            print(
                f"forgotten: what {'every user' if user is None else output.one_line(user)} spent"
            )


def _budget(state: str | None) -> "PrivacyBudget":
    """The budget of a device, or an empty one where there is no device: looking makes none."""
    from ptmo_secure.privacy.budget import PrivacyBudget
    from ptmo_secure.privacy.budget_state import SealedState
    from ptmo_secure.sealed.store import holds_device

    folder = options.state_path(state)
    return PrivacyBudget(state=SealedState(folder=folder) if holds_device(folder) else None)


COMMANDS = (status, reset)
