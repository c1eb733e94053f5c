"""RC-A2C: advantage actor-critic with masks, cost critics and multipliers."""

from typing import Any

from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from ptmo_secure.offload.rl.ppo import RcPpo


class RcA2c(RcPpo):
    """A2C as the special case of PPO that it is (Huang et al. 2022, arXiv 2205.09123).

    One step on the whole rollout: the ratio of old and new policy is 1, nothing is clipped, and the
    gradient of PPO's objective is that of A2C. So masks, cost critics and multipliers are the same
    code. RMSprop, no normalised advantage and full returns, as in stable-baselines3's A2C; the
    rollout is 16 steps in place of 5, so that an episode's costs lie in one or two.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        steps = options.pop("n_steps", 16)
        rms = {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0}
        super().__init__(
            *args,
            n_steps=steps,
            batch_size=steps,
            n_epochs=1,
            policy_kwargs={"optimizer_class": RMSpropTFLike, "optimizer_kwargs": rms},
            **{
                "learning_rate": 2e-3,
                "gae_lambda": 1.0,
                "normalize_advantage": False,
                **options,
            },
        )
