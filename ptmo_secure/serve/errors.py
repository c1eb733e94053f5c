"""Errors as the OpenAI API tells them: a status, and a body that its clients know."""

from collections.abc import Mapping, Sequence

from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from ptmo_secure.errors import CapacityError, InputError, PtmoError, TeeDiedError

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_NAMES = frozenset({"body", "query", "header", "path"})


class ApiError(Exception):
    """What a client is told.

    Args:
        status: of the HTTP response.
        message: one line, which names the field it is about and quotes no text of a user's.
        param: that field.
        code: a word that programs compare.
        retry_after_s: when it may be tried again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, object]:
        """The error object of the OpenAI API."""
        kind = _KINDS.get(self.status) or ("server_error" if self.status >= 500 else _KINDS[400])
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}

    def response(self) -> JSONResponse:
        """The whole response."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def api_error(failure: Exception) -> ApiError:
    """Return what a client is told of a failure; of an unexpected one its type alone."""
    if isinstance(failure, ApiError):
        return failure
    if isinstance(failure, InputError):
        return ApiError(400, str(failure), code="invalid_value")
    if isinstance(failure, CapacityError):
        return ApiError(503, str(failure), code="overloaded", retry_after_s=1)
    if isinstance(failure, TeeDiedError):
        return ApiError(503, str(failure), code="tee_died", retry_after_s=1)
    if isinstance(failure, PtmoError):
        return ApiError(500, str(failure), code="run_failed")
    return ApiError(500, f"unexpected {type(failure).__name__}", code="unexpected")


def invalid_body(failure: RequestValidationError) -> ApiError:
    """Return the first thing that is wrong with a request's body, and where; never its text."""
    errors: Sequence[Mapping[str, object]] = failure.errors()
    first = max(errors, key=lambda error: len(_place(error)))
    if first.get("type") in ("json_invalid", "model_attributes_type") and len(errors) == 1:
        return ApiError(400, "the body is no JSON object, or its content-type is not JSON")
    place = _field(first)
    message = str(first.get("msg", "is wrong")).removeprefix("Value error, ")
    return ApiError(400, f"{place}: {message}", param=place, code="invalid_value")


def _place(error: Mapping[str, object]) -> list[str | int]:
    """Where an error is, without the names that pydantic gives to the branches of a union."""
    where = error.get("loc")
    parts = list(where) if isinstance(where, tuple | list) else []
    kept = parts[1:] if parts and parts[0] in _NAMES else parts
    return [part for part in kept if isinstance(part, int) or str(part).isidentifier()]


def _field(error: Mapping[str, object]) -> str:
    parts = [p for p in _place(error) if isinstance(p, int) or p not in ("str", "bool", "int")]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".") or "body"
