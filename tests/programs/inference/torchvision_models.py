"""torchvision: transforms, a ResNet whose head is fine-tuned, a MobileNet's features, segmentation, boxes converted."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms import v2


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(21)
    transform = v2.Compose(
        [v2.RandomHorizontalFlip(), v2.ConvertImageDtype(torch.float32), v2.Normalize([0.5] * 3, [0.2] * 3)]
    )
    images = transform(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    resnet = torchvision.models.resnet18(weights=None, num_classes=4)
    resnet.requires_grad_(False)
    resnet.fc.requires_grad_(True)
    compiled = torch.compile(resnet.to(memory_format=torch.channels_last), backend=backend)
    optimizer = torch.optim.SGD(resnet.fc.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(compiled(images.to(memory_format=torch.channels_last)), torch.tensor([1, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    mobile = torchvision.models.mobilenet_v3_small(weights=None, width_mult=0.25).eval()
    extract = torch.compile(create_feature_extractor(mobile, ["features.3", "avgpool"]), backend=backend)
    segmenter = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    segment = torch.compile(segmenter.eval(), backend=backend)
    with torch.inference_mode():
        features = extract(images)
        mask = segment(images[:1])["out"].argmax(1)
        boxes = torchvision.ops.box_convert(features["avgpool"][:, :4, 0, 0].abs(), "cxcywh", "xyxy")
    return {
        "losses": losses,
        "fc": resnet.fc.state_dict(),
        "statistics": resnet.bn1.running_mean,
        "features": features,
        "mask": mask,
        "boxes": boxes,
    }
