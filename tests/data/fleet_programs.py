"""Programs for the tests of a cluster: one that works, and two that end the process which captures them, or its parent."""

import os
import signal

import torch


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v


def dies(q, k, v):
    os.kill(os.getpid(), signal.SIGKILL)
    return attend(q, k, v)


def takes_its_parent_along(q, k, v):
    os.kill(os.getppid(), signal.SIGKILL)
    return attend(q, k, v)
