"""The pool of threads: every chunk is done, by few or many threads, and rest costs nothing."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from dllama.kernels import Compute


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_every_row_is_done_each_time(n_threads: int) -> None:
    compute = Compute(n_threads)
    x, bias = np.zeros((200, 1000), np.float32), np.arange(1000, dtype=np.float32)
    for n_times in range(1, 51):
        compute.add_bias(x, bias, 200)
        if n_times % 10 == 0:
            np.testing.assert_array_equal(x, np.tile(bias * n_times, (200, 1)))


def test_idle_threads_use_no_processor() -> None:
    compute = Compute(max(2, os.cpu_count() or 1))
    x, bias = np.zeros((64, 4096), np.float32), np.ones(4096, np.float32)
    compute.add_bias(x, bias, 64)
    time.sleep(0.2)  # longer than threads spin; what is measured begins now
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.01  # 1 % of a core, of all threads together
    compute.add_bias(x, bias, 64)  # and they wake up again
    assert (x == 2).all()
