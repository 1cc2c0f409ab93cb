"""One thread a process, so that a seed gives the same bits on any number of cores."""

from contextlib import contextmanager


@contextmanager
def one_thread():
    """Compute with one thread inside the block, or the decorated function; the caller's setting is restored.

    Sums of several threads round differently for each number of them, and threads that share their cores with another
    program wait for each other.
    """
    import torch  # drawing does without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
