"""Every exception the host side raises on purpose.

The command line maps them to exit codes: `InputError` is 2 (the user can mend it), everything
else is 1 (the run failed).
"""


class PtmoError(Exception):
    """Base of all PTMO-Secure errors; its text is one line, fit to print as it is."""


class InputError(PtmoError, ValueError):
    """The caller's mistake: a bad argument, file or prompt. The text names the input."""


def not_installed(what: str, extra: str) -> InputError:
    """Return the error of a part whose optional packages are not installed.

    Args:
        what: needs them; the sentence begins with it.
        extra: of pyproject.toml.
    """
    how = f"make setup, or pip install -c constraints.txt -e '.[{extra}]'"
    return InputError(f"{what} needs packages of [{extra}]: in the project's folder run {how}")


class ModelFormatError(InputError):
    """A model file that is truncated, hostile, or of a kind this engine does not support."""


class EngineError(PtmoError, RuntimeError):
    """The run failed for a reason outside the input: a dead TEE, a lost page, no memory."""


class CapacityError(EngineError):
    """No room now: every KV page, key slot or place in the queue is taken. Later may do."""


def native_error(error: RuntimeError) -> EngineError:
    """Return what native code raised as an error of ours: a full cache is a matter of capacity.

    Native code has one exception for all that fails at run time, so its text has to tell.
    """
    text = str(error)
    return CapacityError(text) if text.startswith("the KV cache is full") else EngineError(text)


TEE_DIED = "the TEE process is gone: the KV cache and its keys were wiped; run again to start anew"


class TeeDiedError(EngineError):
    """The TEE process is gone; every session that stood behind it was wiped."""

    def __init__(self, text: str = TEE_DIED) -> None:
        super().__init__(text)


class SecurityError(PtmoError, RuntimeError):
    """A check that protects secrets failed. Nothing was computed past it."""


class EgressRefusedError(SecurityError):
    """Something private would have left the device, or it could not be checked: nothing was sent.

    Args:
        text: one line; names kinds and codes, never the text.
        code: why, for programs and the egress log.
    """

    def __init__(self, text: str, code: str = "refused") -> None:
        super().__init__(text)
        self.code = code


class CloudError(PtmoError, RuntimeError):
    """A cloud provider failed or may not be asked now. The device can still answer.

    Args:
        text: one line; never text of a request or an answer.
        code: why, for programs and metrics: "timeout", "rate_limited", "server", "connection",
            "malformed", "too_large", "rejected", "circuit_open", "cap".
    """

    def __init__(self, text: str, code: str = "failed") -> None:
        super().__init__(text)
        self.code = code


class SpendCapError(CloudError):
    """The call could pass a cap on dollars, seconds or joules; it was not made."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "cap")
