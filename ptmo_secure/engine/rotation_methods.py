"""What an engine offers to replace its keys on demand."""

from ptmo_secure.engine.session_pool import SessionPool


class RotationMethods:
    """The part of `Engine` that is about rotation."""

    sessions: SessionPool

    def rotate(self) -> None:
        """Replace every key now: seal keys of all open sessions, permutations of the model.

        Under `seal` all rows are sealed anew, under each session's next key: one crossing a
        session, its forks included. Under `permute` the weights and the adapters are permuted anew,
        as at the load, and the TEE moves all rows to the new order. Sessions and streams go on; the
        logits are what they would have been (in a float cache `permute` reorders sums, as ever).

        Raises:
            InputError: shield `none` has no key.
            CapacityError: every key slot is in use; nothing has changed.
            TeeDiedError: the TEE is gone; every session is closed and wiped.
            EngineError: the engine is closed, or the TEE refuses.

        Sessions whose key was not reached when it raises go on under the one they had. Once weights
        are being permuted, whatever fails, an interrupt too, closes every session and ends the TEE;
        the next session starts another.

        Security: the old seal keys are wiped, the old permutations dropped. What was copied from
        the memory before stays readable to whoever has an old key.
        """
        self.sessions.rotate()
