"""Result codes, their origins and the exceptions that carry them.

Names and numbers are GlobalPlatform's (TEE Internal Core API v1.3, table "API Return Codes"), so
that a port to a real TEE keeps them. Numbers from 0x80000000 are ours: they say which check of a
sealed object failed.
"""

from enum import IntEnum


class ResultCode(IntEnum):
    """What a command came to; 0 is success."""

    SUCCESS = 0x00000000
    GENERIC = 0xFFFF0000
    ACCESS_DENIED = 0xFFFF0001
    BAD_FORMAT = 0xFFFF0005
    BAD_PARAMETERS = 0xFFFF0006
    BAD_STATE = 0xFFFF0007
    ITEM_NOT_FOUND = 0xFFFF0008
    NOT_SUPPORTED = 0xFFFF000A
    OUT_OF_MEMORY = 0xFFFF000C
    BUSY = 0xFFFF000D
    COMMUNICATION = 0xFFFF000E
    SECURITY = 0xFFFF000F
    SHORT_BUFFER = 0xFFFF0010
    TARGET_DEAD = 0xFFFF3024
    STORAGE_NO_SPACE = 0xFFFF3041
    MAC_INVALID = 0xFFFF3071
    STORAGE_NOT_AVAILABLE = 0xF0100003
    TRUNCATED = 0x80000001
    WRONG_OBJECT = 0x80000002
    ROLLED_BACK = 0x80000003
    COUNTER_ROLLED_BACK = 0x80000004
    EXPIRED = 0x80000005
    CLOCK_SET_BACK = 0x80000006


class Origin(IntEnum):
    """Which layer produced a result code."""

    API = 1
    COMMS = 2
    TEE = 3
    TRUSTED_APP = 4


def _name(enum: type[IntEnum], value: int) -> str:
    try:
        return enum(value).name
    except ValueError:
        return f"{value:#010x}"


class TeeError(RuntimeError):
    """A command was refused or failed.

    Security: the text holds codes, sizes and handles, never user text, keys or permutations.

    Args:
        code: result code (`ResultCode` where known).
        origin: layer that produced it (`Origin` where known).
        message: what was being done; a default names the code.
        needed_bytes: with SHORT_BUFFER, the room that would do; 0 where the command does not say.
    """

    def __init__(
        self, code: int, origin: int = Origin.TEE, message: str = "", needed_bytes: int = 0
    ) -> None:
        self.code = int(code)
        self.origin = int(origin)
        self.needed_bytes = needed_bytes
        what = message or "the TEE refused the command"
        super().__init__(f"{what} ({_name(ResultCode, code)}, origin {_name(Origin, origin)})")


class TeeDeadError(TeeError):
    """The TEE process is gone; its keys and permutations are gone with it. Launch a new one."""

    def __init__(self, message: str = "") -> None:
        super().__init__(
            ResultCode.TARGET_DEAD, Origin.COMMS, message or "the TEE process is not running"
        )


class EvidenceError(RuntimeError):
    """A device's evidence was refused.

    Security: the text holds numbers and hashes of the token, no more.

    Args:
        check: name of the first check that failed, as docs/tee.md lists them.
        message: one line.
    """

    def __init__(self, check: str, message: str) -> None:
        self.check = check
        super().__init__(f"{check}: {message}")
