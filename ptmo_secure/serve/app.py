"""The server as an ASGI application. Start here: every endpoint is in this file."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from ptmo_secure import __version__
from ptmo_secure.errors import PtmoError
from ptmo_secure.serve.chat import answer_chat
from ptmo_secure.serve.completions import complete
from ptmo_secure.serve.embeddings import embed
from ptmo_secure.serve.errors import ApiError, api_error, invalid_body
from ptmo_secure.serve.gatekeeper import Gatekeeper
from ptmo_secure.serve.page import add_page
from ptmo_secure.serve.preview import preview
from ptmo_secure.serve.schemas import ChatBody, CompletionBody, EmbeddingBody, PreviewBody
from ptmo_secure.serve.service import Service
from ptmo_secure.serve.users import ApiKey

_METRICS = "text/plain; version=0.0.4; charset=utf-8"


def build_app(service: Service) -> ASGIApp:
    """Return the application of a service; its router is the caller's to close."""
    app = FastAPI(title="ptmo serve", version=__version__, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    for kind in (ApiError, PtmoError, Exception):
        app.add_exception_handler(kind, _failed)
    add_page(app)

    def shared() -> Service:
        return service

    own = Annotated[Service, Depends(shared)]
    _add_models(app, service)

    @app.post("/v1/chat/completions")
    async def chat_completions(http: Request, body: ChatBody, service: own) -> Response:
        return await answer_chat(service, http, body)

    @app.post("/v1/completions")
    async def completions(http: Request, body: CompletionBody, service: own) -> Response:
        return await complete(service, http, body)

    @app.post("/v1/embeddings")
    async def embeddings(http: Request, body: EmbeddingBody, service: own) -> Response:
        return await embed(service, http, body)

    @app.post("/x-ptmo/preview")
    async def show_preview(http: Request, body: PreviewBody, service: own) -> Response:
        return await preview(service, http, body)

    @app.get("/health")
    async def health(service: own) -> Response:
        return JSONResponse({"status": "ok", "model": service.settings.model})

    @app.get("/metrics")
    async def metrics(service: own) -> Response:
        return Response(service.metrics.text(), media_type=_METRICS)

    return Gatekeeper(app, service)


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models(http: Request) -> Response:
        return JSONResponse({"object": "list", "data": service.models(_key(http))})

    @app.get("/v1/models/{model:path}")
    async def model(http: Request, model: str) -> Response:
        for each in service.models(_key(http)):
            if each["id"] == model:
                return JSONResponse(dict(each))
        raise ApiError(404, "model: this server has no such model", code="model_not_found")


def _key(http: Request) -> ApiKey:
    key: ApiKey = http.scope["state"]["key"]
    return key


async def _invalid(_: Request, failure: Exception) -> Response:
    if isinstance(failure, RequestValidationError):
        return invalid_body(failure).response()
    return api_error(failure).response()


async def _refused(_: Request, failure: Exception) -> Response:
    if not isinstance(failure, HTTPException):
        return api_error(failure).response()
    texts = {404: "there is no such path", 405: "the path does not take this method"}
    text = texts.get(failure.status_code, "the body cannot be read")
    return ApiError(failure.status_code, text).response()


async def _failed(_: Request, failure: Exception) -> Response:
    return api_error(failure).response()
