# SPDX-License-Identifier: MIT
"""A network whose convolutions are made DO-Conv layers, trained, and folded for inference."""
import torch
import torch.nn.functional as F
from torch import nn

import doconv.torch as dt

torch.manual_seed(0)
plain = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(32, 2),
)  # fmt: skip
model = dt.convert(plain)  # computes what plain does, with D the identity
print(model[0])

# Two kinds of stripes, channels last as the kernels like it best.
labels = torch.arange(64) % 2
stripes = (torch.arange(16) // 2 % 2).float()
images = torch.where(labels.view(-1, 1, 1) == 0, stripes.view(1, 1, -1), stripes.view(1, -1, 1))
images = (images + 0.5 * torch.randn(64, 16, 16)).unsqueeze(1)
images = images.contiguous(memory_format=torch.channels_last)

optimizer = torch.optim.SGD(
    [p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9
)
for step in range(30):
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")

folded = dt.fold(model)  # plain convolutions again: no cost is left of the over-parameterization
print(f"folding changed the output by {dt.check_fold(model, images):.1e} of its largest value")
print(type(folded[0]).__name__, [name for name in folded.state_dict() if name.startswith("0.")])
