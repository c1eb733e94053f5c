"""The worker's side of the protocol. Standard library alone: a peer's Python imports it too."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Handler = Callable[[dict[str, Any]], dict[str, Any]]


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answer requests on stdin until it ends.

    Args:
        handlers: functions by the request's name; each takes the request and returns the reply.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand among the replies
    for line in sys.stdin:
        try:
            request = json.loads(line)
            reply = {"ok": True, **handlers[request["do"]](request)}
        except Exception as error:
            reply = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
