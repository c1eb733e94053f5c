"""Offloading: which turn of a conversation is answered on the device, and which in a cloud.

`outcomes` reads tables of what models really answered, `envs` makes Gymnasium environments of
them, `gate` says what is allowed at all, `policies` choose inside that, `evaluate` compares them.
"""
