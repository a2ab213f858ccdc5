"""What both trainings share: a run's state on disk, its clock, its averages and its log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import AdamW

from backend.files import write_bytes, write_text

# times as many pictures a step, and in all, where a GPU trains: the number of steps and the rates stay
CARD = 4
SAVE_SECONDS = 120.0
LOG_SECONDS = 20.0


def width(device: torch.device) -> int:
    """How many times the pictures that a CPU takes a step, and in all."""
    return CARD if device.type == "cuda" else 1


def precision(device: torch.device) -> torch.autocast:
    """Networks compute in bf16 on a GPU; parameters, losses and averages stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


@dataclass
class Run:
    """A training that can be stopped and gone on with: `folder` holds NAME.safetensors and NAME.json.

    networks  what is trained, by name
    average   an exponential moving average of their parameters, which is what gets shipped
    """

    name: str
    folder: Path
    networks: dict[str, nn.Module]
    optimizer: AdamW
    decay: float
    average: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    seen: int = 0  # pictures
    seconds: float = 0.0  # of training, over all its parts
    losses: list[tuple[int, float]] = field(default_factory=list)

    def parameters(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name, network in self.networks.items()
            for key, value in network.named_parameters()
        }

    def follow(self) -> None:
        """Move the average a little towards the parameters; faster in the beginning."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.parameters().items():
                mean = self.average.setdefault(key, value.detach().clone())
                mean.lerp_(value.detach(), 1 - decay)

    def put_average(self) -> None:
        """Put the average into the networks."""
        with torch.no_grad():
            for key, value in self.parameters().items():
                value.copy_(self.average[key])

    def save(self) -> None:
        """Everything that going on needs, both files whole or not there."""
        tensors = {f"value.{key}": value.detach() for key, value in self.parameters().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.items()}
        for key, value in self.parameters().items():
            for slot, moment in self.optimizer.state.get(value, {}).items():
                tensors[f"moment.{slot}.{key}"] = moment
        # One file for the tensors and their position: a stop between two files would tear them apart.
        position = torch.tensor([self.step, self.seen, round(self.seconds * 1000)])
        losses = torch.tensor(self.losses, dtype=torch.float64).reshape(-1, 2)
        tensors |= {"position": position, "losses": losses}
        write_bytes(
            self.folder / f"{self.name}.safetensors", save({k: v.contiguous() for k, v in tensors.items()})
        )
        summary = {"step": self.step, "pictures": self.seen, "seconds": round(self.seconds)}
        write_text(self.folder / f"{self.name}.json", json.dumps(summary))

    def restore(self) -> bool:
        """Go on from the folder, if something lies there."""
        path = self.folder / f"{self.name}.safetensors"
        if not path.exists():
            return False
        tensors = load(path.read_bytes())
        step, seen, thousandths = tensors.pop("position").tolist()
        self.step, self.seen, self.seconds = int(step), int(seen), thousandths / 1000
        self.losses = [(int(a), float(b)) for a, b in tensors.pop("losses").tolist()]
        with torch.no_grad():
            for key, value in self.parameters().items():
                value.copy_(tensors[f"value.{key}"])
                self.average[key] = tensors[f"average.{key}"].to(value.device)
                slots = {
                    name.split(".")[1]: tensor.to(value.device)
                    for name, tensor in tensors.items()
                    if name.startswith("moment.") and name.split(".", 2)[2] == key
                }
                if slots:
                    self.optimizer.state[value] = dict(slots)
        return True

    def work(self, minutes: float, planned: int) -> Iterator[int]:
        """Steps until the minutes are over or `planned` pictures are seen; logs and saves on the clock."""
        began, spent = time.monotonic(), self.seconds
        saved = logged = began
        while self.seen < planned and time.monotonic() - began < 60 * minutes:
            yield self.step
            self.step += 1
            self.follow()
            now = time.monotonic()
            self.seconds = spent + now - began
            if now - logged > LOG_SECONDS:
                logged = now
                recent = [loss for _, loss in self.losses[-50:]]
                print(
                    f"{self.name}: {self.seen:,} of {planned:,} pictures, {self.seen / self.seconds:.1f}/s, "
                    f"loss {sum(recent) / max(1, len(recent)):.4f}",
                    flush=True,
                )
            if now - saved > SAVE_SECONDS:
                saved = now
                self.save()
        self.save()

    def learn(self, loss: Tensor, pictures: int) -> None:
        """One update by the loss of so many pictures, its gradients no longer than 1."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for n in self.networks.values() for p in n.parameters()], 1.0)
        self.optimizer.step()
        self.note(loss, pictures)

    def note(self, loss: Tensor, pictures: int) -> None:
        self.seen += pictures
        if self.step % 10 == 0:
            self.losses.append((self.seen, float(loss.detach())))


def new_optimizer(networks: dict[str, nn.Module], weight_decay: float) -> AdamW:
    parameters = [p for network in networks.values() for p in network.parameters()]
    return AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)


def set_rate(optimizer: AdamW, peak: float, warmup: float, done: float) -> None:
    """Linear warm-up to `peak`, constant, then linearly to a twentieth over the second half; done in [0, 1]."""
    late = max(0.0, (done - 0.5) / 0.5)
    rate = peak * min(1.0, (done + 1e-9) / warmup) * (1 - 0.95 * min(1.0, late))
    for group in optimizer.param_groups:
        group["lr"] = rate
