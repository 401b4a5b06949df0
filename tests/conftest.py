"""One thread a process: tests run side by side, and small tensors gain nothing from more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("fedred", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("fedred")
