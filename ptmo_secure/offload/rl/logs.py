"""What stable-baselines3 writes while it trains: nothing, unless someone asks."""

from stable_baselines3.common.logger import Logger


def silent_logger() -> Logger:
    """Return a logger that keeps the last values and writes nowhere.

    Without one, a learner makes a folder /tmp/SB3-... for each training, and leaves it there.
    """
    return Logger(folder=None, output_formats=[])
