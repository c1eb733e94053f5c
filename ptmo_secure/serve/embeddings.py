"""POST /v1/embeddings: texts as vectors, by a small encoder on this device."""

import base64

import numpy as np
import numpy.typing as npt
from fastapi import Request
from starlette.responses import JSONResponse, Response

from ptmo_secure.serve.answers import check_headers, while_connected
from ptmo_secure.serve.embedder import MODEL_ID
from ptmo_secure.serve.errors import ApiError
from ptmo_secure.serve.schemas import EmbeddingBody
from ptmo_secure.serve.service import Service


async def embed(service: Service, http: Request, body: EmbeddingBody) -> Response:
    """Answer with a vector for each text, in their order."""
    check_headers(http)
    if body.model != MODEL_ID:
        raise ApiError(
            404,
            f"model: embeddings are made by {MODEL_ID} alone",
            param="model",
            code="model_not_found",
        )
    work = service.embedder.vectors(body.texts, body.dimensions)
    vectors, tokens = await while_connected(service, http, work)
    service.metrics.count_embedded(tokens)
    as_base64 = body.encoding_format == "base64"
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(vector) if as_base64 else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    used = {"prompt_tokens": tokens, "total_tokens": tokens}
    told = {"object": "list", "data": rows, "model": MODEL_ID, "usage": used}
    return JSONResponse(told, headers={"x-ptmo-route": "local"})


def _base64(vector: npt.NDArray[np.float32]) -> str:
    """Return the numbers as the API's clients read them: little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
