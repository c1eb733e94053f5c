"""Engines in processes of their own, measured through one small protocol.

One JSON object a line. Requests and replies:

    {"do": "load", "model", "threads", "context_tokens", "kv_dtype"}  ->  {"version", "variants"}
    {"do": "measure", "ids", "decode_tokens", "variant"}  ->  {"prefill_s", "decode_s", "tokens"}

A reply has "ok": true, or "ok": false and "error". `variants` are the ways an engine can run (with
and without flash attention): the caller measures which one is the faster. A worker that waits for a
request uses no processor, so that the other's turn is its own.
"""
