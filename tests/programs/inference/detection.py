"""A detector in one stage, trained for a few steps and run: anchors, box regression, matching, NMS in plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES, ANCHORS, SIZE = 3, 2, 32


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.SiLU(),
        )
        self.down = nn.Conv2d(16, 16, 3, 2, 1)
        self.head = nn.Conv2d(16, ANCHORS * (4 + 1 + CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.backbone(x)
        coarse = self.down(fine)
        fine = fine + F.interpolate(coarse, scale_factor=2, mode="nearest")
        maps = [self.head(level).flatten(2).transpose(1, 2) for level in (fine, coarse)]
        return torch.cat([level.reshape(level.size(0), -1, 4 + 1 + CLASSES) for level in maps], dim=1)


def anchors() -> Tensor:
    found = []
    for cells in (SIZE // 4, SIZE // 8):
        step = SIZE / cells
        y, x = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
        center = torch.stack(((x + 0.5) * step, (y + 0.5) * step), dim=-1).view(-1, 1, 2)
        size = torch.tensor([[step * 1.5, step * 1.5], [step * 3, step * 2]]).expand(center.size(0), ANCHORS, 2)
        found.append(torch.cat((center.expand(-1, ANCHORS, -1), size), dim=-1).reshape(-1, 4))
    return torch.cat(found)


def decode(raw: Tensor, priors: Tensor) -> Tensor:
    center = raw[..., :2] * priors[:, 2:] * 0.1 + priors[:, :2]
    size = (raw[..., 2:4] * 0.2).clamp(max=4).exp() * priors[:, 2:]
    return torch.cat((center - size / 2, center + size / 2), dim=-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(-1), (b[:, 2:] - b[:, :2]).prod(-1)
    return overlap / (area_a[:, None] + area_b[None] - overlap + 1e-9)


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    order, kept = scores.argsort(descending=True), []
    while order.numel() > 0:
        best = order[0]
        kept.append(best)
        order = order[1:][iou(boxes[best][None], boxes[order[1:]])[0] <= threshold]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.long)


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(12)
    model, priors = Detector(), anchors()
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    images = torch.randn(2, 3, SIZE, SIZE)
    truth = torch.tensor([[[4.0, 4, 16, 16], [14, 10, 30, 30]], [[2, 12, 20, 28], [8, 2, 22, 12]]])
    labels = torch.tensor([[0, 2], [1, 0]])
    corners = torch.cat((priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2), dim=1)
    losses = []
    for _ in range(4):
        raw = compiled(images)
        loss = torch.zeros(())
        for prediction, boxes, classes in zip(raw, truth, labels, strict=True):
            overlap, match = iou(corners, boxes).max(dim=1)
            positive = overlap > 0.3
            loss = loss + F.smooth_l1_loss(decode(prediction, priors)[positive], boxes[match[positive]]) / SIZE
            loss = loss + F.binary_cross_entropy_with_logits(prediction[:, 4], positive.float())
            loss = loss + F.cross_entropy(prediction[positive][:, 5:], classes[match[positive]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    detections = []
    with torch.inference_mode():
        for prediction in compiled(images):
            scores, classes = (prediction[:, 4:5].sigmoid() * prediction[:, 5:].softmax(-1)).max(dim=1)
            candidates = scores > scores.median()
            boxes = decode(prediction, priors)[candidates].clamp_(0, SIZE)
            scores, classes = scores[candidates], classes[candidates]
            kept = suppress(boxes + classes[:, None] * 2 * SIZE, scores, 0.5)[:10]
            detections.append({"boxes": boxes[kept], "scores": scores[kept], "labels": classes[kept].tolist()})
    return {"losses": losses, "detections": detections}
