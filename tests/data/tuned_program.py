"""A small function with one kernel on the CPU, as a file that commands and other processes can be given."""

import torch


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v


SHAPES = [(2, 512, 64)] * 3
