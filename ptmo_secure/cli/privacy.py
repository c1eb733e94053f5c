"""`ptmo privacy`: what was disclosed, what may be, and which masked sessions are kept."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.errors import InputError

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


def sessions(user: User = None, state: options.State = None, json: options.Json = False) -> None:
    """List the sessions whose values `ptmo mask --session` keeps; no value is shown.

    \b
    Examples:
      ptmo privacy sessions
      ptmo privacy sessions --user ann --json

    Sessions that are over are removed on the way.
    """
    options.check_utf8("user", user)
    with output.json_only(json) as emit:
        from ptmo_secure.privacy.kept_vaults import KeptVaults
        from ptmo_secure.sealed.store import holds_device

        folder, now_s, found = options.state_path(state), time.time(), []
        if holds_device(folder):
            with KeptVaults.open(folder) as kept:
                found = kept.sessions(user)
        rows = [
            {
                "user": one.user,
                "session": one.name,
                "age_s": round(max(0.0, now_s - one.saved_s)),
                "left_s": round(max(0.0, one.left_s(now_s))),
                "ttl_s": one.ttl_s,
                "bytes": one.size_bytes,
            }
            for one in found
        ]
        emit({"sessions": rows})
        if json:
            return
    if not rows:
        print("no session is kept")
    for row in rows:
        whose = f" of {output.one_line(str(row['user']))}" if row["user"] else ""
        print(
            f"{output.one_line(str(row['session']))}{whose}: masked in {row['age_s']} s ago, "
            f"forgotten in {row['left_s']} s"
        )


def forget(
    session: Annotated[
        str | None, typer.Option("--session", metavar="NAME", help="One session [default: all].")
    ] = None,
    value: Annotated[
        str | None,
        typer.Option("--value", metavar="P", help="One value of it, by its placeholder."),
    ] = None,
    user: User = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Forget masked sessions, or one value, for good: no copy of their files opens any more.

    \b
    Examples:
      ptmo privacy forget --session letter
      ptmo privacy forget --session letter --value "[PERSON_1]"
      ptmo privacy forget --user ann

    It also removes a session whose file was damaged.
    """
    options.check_utf8("user, session or value", user, session, value)
    if value is not None and session is None:
        raise InputError("--value needs --session")
    with output.json_only(json) as emit:
        from ptmo_secure.privacy.kept_vaults import KeptVaults

        with KeptVaults.open(options.state_path(state), create=False) as kept:
            if session is not None and value is not None:
                count, what = kept.forget_value(session, value, user or ""), "values"
            else:
                count, what = kept.forget(session, user), "sessions"
        if not count:
            raise InputError("there is nothing of that name to forget")
        emit({"forgotten": count, "what": what})
        if not json:
            print(f"forgotten: {count} {what}")


def _budget(state: str | None) -> "PrivacyBudget":
    """The budget of a device, or an empty one where there is no device: looking makes none."""
    from ptmo_secure.privacy.budget import PrivacyBudget
    from ptmo_secure.privacy.budget_state import SealedState
    from ptmo_secure.sealed.store import holds_device

    folder = options.state_path(state)
    return PrivacyBudget(state=SealedState(folder=folder) if holds_device(folder) else None)


COMMANDS = (status, reset, sessions, forget)
