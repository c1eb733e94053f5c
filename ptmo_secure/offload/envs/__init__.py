"""Environments, registered with Gymnasium when this package is imported.

import gymnasium, ptmo_secure.offload.envs
env = gymnasium.make("ptmo/M4A1-v0", conversations=outcomes.load_m4a1(folder))
"""

import gymnasium as gym

_HERE = "ptmo_secure.offload.envs"

for _name, _home in (
    ("ptmo/M4A1-v0", f"{_HERE}.m4a1:M4A1Env"),
    ("ptmo/M4A1Device-v0", f"{_HERE}.m4a1_device:M4A1DeviceEnv"),
    ("ptmo/Sessions-v0", f"{_HERE}.sessions:SessionsEnv"),
):
    gym.register(_name, entry_point=_home)
