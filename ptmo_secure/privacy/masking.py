"""Masking for one request: a guard process, a vault in it, and errors a user understands.

with Masking.open("ann") as masking:
    masked = masking.mask("Call Dr. Kim at 010-1234-5678")
    print(masking.unmask(f"Done: {masked.text}"))
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import get_args

from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.privacy.kept_vaults import DEFAULT_TTL_S, KeptVaults
from tee_sim.client import Masked, ResultCode, Style, TeeClient, TeeDeadError, TeeError, Vault

STYLES: tuple[Style, ...] = get_args(Style)


class Masking:
    """A conversation's masked values, in a guard process; a context manager.

    Every method raises `InputError` for a text that cannot be masked (too long, not valid Unicode)
    and `EngineError` when the guard fails. Neither quotes the text, and neither is a masked text.
    """

    def __init__(
        self, vault: Vault, held: ExitStack, keep: Callable[[], None] | None = None
    ) -> None:
        """Use `open` or `resume`."""
        self._vault = vault
        self._held = held
        self._keep = keep

    @classmethod
    def open(cls, user: str = "") -> "Masking":
        """Start a guard and open a vault for a user."""
        with _tee_errors(), ExitStack() as undo:
            guard = undo.enter_context(TeeClient.launch("guard"))
            return cls(guard.open_vault(user), undo.pop_all())

    @classmethod
    def resume(
        cls, folder: Path, session: str, user: str = "", *, ttl_s: int | None = None
    ) -> "Masking":
        """Go on with a session that the device in `folder` keeps.

        Args:
            folder: of the device's state.
            session: its name.
            user: whose it is.
            ttl_s: make device and session where there are none, and forget the session so many
                seconds after it was masked in last; None: a session that is not there is an
                `InputError`.
        """
        new = ttl_s is not None
        with ExitStack() as undo:
            kept = undo.enter_context(KeptVaults.open(folder, create=new))
            time = DEFAULT_TTL_S if ttl_s is None else ttl_s
            vault = undo.enter_context(kept.session(session, user, ttl_s=time, create=new))
            return cls(vault, undo.pop_all(), lambda: kept.keep(session, vault, user))

    def mask(self, text: str, style: str = "placeholder") -> Masked:
        """Return a text without its private values, and what they are; a kept session is stored.

        Args:
            text: at most 256 KiB of UTF-8.
            style: "placeholder", "surrogate", or "generalise", which is not taken back.
        """
        if style not in STYLES:
            raise InputError(f"unknown style {style!a}: choose from {', '.join(STYLES)}")
        chosen = next(known for known in STYLES if known == style)
        with _tee_errors():
            masked = self._vault.mask(text, chosen)
        if self._keep is not None:
            self._keep()
        return masked

    def unmask(self, text: str) -> str:
        """Return a text with the values that this conversation masked."""
        with _tee_errors():
            return self._vault.unmask(text)

    def unmask_stream(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield an answer that comes piece by piece, with its values."""
        with _tee_errors():
            yield from self._vault.unmasker().each(iter(pieces))

    def close(self) -> None:
        """End the guard; values of no kept session go with it. Idempotent."""
        self._held.close()

    def __enter__(self) -> "Masking":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _tee_errors() -> Iterator[None]:
    try:
        yield
    except TeeDeadError:
        raise EngineError("the guard process is gone: nothing was masked") from None
    except TeeError as error:
        if error.code == ResultCode.BAD_FORMAT:
            raise InputError("the text is not valid UTF-8") from None
        if error.code == ResultCode.OUT_OF_MEMORY:
            raise InputError("the text is too long, or has too many private values") from None
        raise EngineError(f"the guard: {error}") from None
