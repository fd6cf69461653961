"""A small CNN that tells an icon's style and subject: what generated pictures are judged by.

It is trained on real icons as they are and through the autoencoder that the bundled models share, since that is how a
generated picture looks at best. Two of the icon sets are share-alike, so the file is offered under CC BY-SA 4.0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from lab import data
from lab.bundle import runner_of
from lab.loop import train
from lab.packing import pack
from lab.paths import CLASSIFIER
from lab.zoo import STYLES
from lorax.demo.bundle import BASE, PACKED, read_packed

NONE = "none"  # the subject of icons whose subject is not in every set
BATCH = 64
STEPS = 4000
STARK = 0.25  # share of pictures from which only the subject is learned, in black and white
CHANNELS = (32, 48, 64, 96, 96, 192)
STRIDES = (2, 2, 1, 2, 1, 2)


class Classifier(nn.Module):
    """Two linear heads on one trunk of convolutions. Pictures are (N, 3, SIZE, SIZE) in [0, 1], as ``Runner.sample`` gives."""

    def __init__(self, styles: list[str], subjects: list[str]) -> None:
        super().__init__()
        self.styles, self.subjects = styles, subjects
        layers: list[nn.Module] = []
        for before, after, stride in zip((3, *CHANNELS), CHANNELS, STRIDES, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        # The last norm gives every feature unit variance over the icons, so that none rules the distances.
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(CHANNELS[-1], affine=False))
        self.style_head = nn.Linear(CHANNELS[-1], len(styles))
        self.subject_head = nn.Linear(CHANNELS[-1], len(subjects))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the styles (N, styles) and of the subjects (N, subjects)."""
        features = self.trunk(2 * pictures - 1)
        return self.style_head(features), self.subject_head(features)

    @torch.no_grad()
    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, D), scaled so that the distance of two is the root mean square over D, in standard deviations over the icons."""
        return self.trunk(2 * pictures - 1) / CHANNELS[-1] ** 0.5

    @torch.no_grad()
    def style_probabilities(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, styles), in the order of ``styles``."""
        return self(pictures)[0].softmax(1)

    @torch.no_grad()
    def subject_ranks(self, pictures: torch.Tensor, subjects: list[str], among: Sequence[str] = ()) -> torch.Tensor:
        """(N,): how many subjects fit each picture better than the one named for it; 0 is best. ``among``: of these alone."""
        logits = self(pictures)[1]
        named = logits.gather(1, torch.tensor([[self.subjects.index(subject)] for subject in subjects]))
        counted = [self.subjects.index(subject) for subject in among or self.subjects]
        return (logits[:, counted] > named).sum(1)

    def save(self, path: Path) -> None:
        state = {key: value.half() for key, value in self.state_dict().items() if value.is_floating_point()}
        pack(path, state, {"styles": json.dumps(self.styles), "subjects": json.dumps(self.subjects)})

    @classmethod
    def load(cls, path: Path = CLASSIFIER) -> Classifier:
        tensors, metadata = read_packed(path)
        model = cls(*(json.loads(metadata[key]) for key in ("styles", "subjects")))
        model.load_state_dict(tensors, strict=False)
        return model.eval()


@dataclass(frozen=True)
class Labelled:
    """Pictures (N, 3, SIZE, SIZE) in [0, 1] with the number of each one's style and subject, both (N,)."""

    pictures: torch.Tensor
    styles: torch.Tensor
    subjects: torch.Tensor
    held_out: torch.Tensor  # whether the subject is
    unseen: torch.Tensor  # whether the classifier is not trained on the icon: held out, and in an untaught style

    def where(self, keep: torch.Tensor) -> Labelled:
        return Labelled(*(getattr(self, field.name)[keep] for field in fields(self)))


def labelled(sets: Sequence[str] = tuple(data.SETS), untaught: Sequence[str] = STYLES) -> tuple[Labelled, list[str]]:
    """Every icon of a common subject, one in four of the others (labelled ``NONE``), and the names of the subjects.

    A style's number is its place in ``sets``. In the ``untaught`` ones, held-out subjects stay unseen.
    """
    common = sorted(set(data.load_common(*untaught).subjects))
    number = {subject: row for row, subject in enumerate(common)}
    parts = [data.load(name) for name in sets]
    parts = [part.where([s in number or row % 4 == 0 for row, s in enumerate(part.subjects)]) for part in parts]
    names = [subject for part in parts for subject in part.subjects]
    styles = torch.tensor([style for style, part in enumerate(parts) for _ in part.subjects])
    held_out = torch.tensor([data.is_held_out(subject) for subject in names])
    everything = Labelled(
        torch.cat([part.pixels() for part in parts]) / 2 + 0.5,
        styles,
        torch.tensor([number.get(subject, len(common)) for subject in names]),
        held_out,
        held_out & torch.isin(styles, torch.tensor([list(sets).index(name) for name in untaught])),
    )
    return everything, [*common, NONE]


@torch.no_grad()
def through(vae: AutoencoderKL, pictures: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
    """Pictures as the autoencoder gives them back; each one's latents get Gaussian noise of a deviation in [0, ``noise``]."""
    generator, back = torch.Generator().manual_seed(0), []
    for batch in pictures.split(64):
        with torch.autocast("cpu", torch.bfloat16):  # three times as fast on a CPU with AVX-512 BF16
            latents = vae.encode(2 * batch - 1).latent_dist.mean * vae.config["scaling_factor"]
            strengths = noise * torch.rand(len(batch), 1, 1, 1, generator=generator)
            latents = latents + strengths * torch.randn(latents.shape, generator=generator)
            decoded = vae.decode(latents / vae.config["scaling_factor"], return_dict=False)[0]
        back.append(decoded.float().clamp(-1, 1) / 2 + 0.5)
    return torch.cat(back)


def augmented(pictures: torch.Tensor) -> torch.Tensor:
    """Mirrored, shifted by up to 4 pixels, scaled by up to a tenth, brighter or darker, of more or less contrast."""
    count = len(pictures)
    scale = 1 + 0.1 * _uniform(count)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = scale * mirror, scale
    matrix[:, :, 2] = _uniform(count, 2) * 8 / data.SIZE
    grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    contrast, brightness = 1 + 0.15 * _uniform(count, 1, 1, 1), 0.08 * _uniform(count, 1, 1, 1)
    return ((moved - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)


def _uniform(*shape: int) -> torch.Tensor:
    return 2 * torch.rand(*shape) - 1


def train_classifier(
    folder: Path, path: Path = CLASSIFIER, sets: Sequence[str] = tuple(data.SETS), untaught: Sequence[str] = STYLES
) -> Path:
    """Train on all but the ``unseen`` icons, keep the run in ``folder``, write ``path``."""
    (everything, names), run = labelled(sets, untaught), path.name.removesuffix(PACKED)
    seen = everything.where(~everything.unseen)
    sources = (seen, _reconstructed(folder, seen, run))
    torch.manual_seed(0)
    model = Classifier(list(sets), names).train().to(memory_format=torch.channels_last)

    def loss_of(step: int) -> torch.Tensor:
        halves = [source.where(torch.randint(len(source.styles), (BATCH // 2,))) for source in sources]
        pictures, stark = augmented(torch.cat([half.pictures for half in halves])), torch.rand(BATCH) < STARK
        black_and_white = (4 * pictures.mean(1, keepdim=True) - 1.5).clamp(0, 1)
        pictures = torch.where(stark[:, None, None, None], black_and_white, pictures)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):  # nearly twice as fast on a CPU with AVX-512 BF16
            style, subject = model(pictures)
        # If held-out subjects taught the style head, it would learn that they come in none of the unseen sets' styles.
        untold = torch.cat([half.held_out for half in halves]) | stark
        styles = torch.cat([half.styles for half in halves]).masked_fill(untold, -100)  # -100: not counted
        subjects = torch.cat([half.subjects for half in halves])
        return F.cross_entropy(style.float(), styles) + F.cross_entropy(subject.float(), subjects, label_smoothing=0.1)

    train(run, folder, model, loss_of, steps=STEPS, rate=3e-3, decay=0.99, weight_decay=0.05).save(path)
    return path


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, 0 to 1; those about subjects are of the icons whose subject is not ``NONE``."""

    style: float
    subject: float
    subject_in_five: float


def accuracy(classifier: Classifier, icons: Labelled, among: Sequence[str] = ()) -> Accuracy:
    """``among``: the subjects between which the classifier chooses, if not all."""
    ranks = classifier.subject_ranks(icons.pictures, [classifier.subjects[i] for i in icons.subjects.tolist()], among)
    styles = classifier.style_probabilities(icons.pictures).argmax(1)
    ranks = ranks[icons.subjects < len(classifier.subjects) - 1]
    shares = (styles == icons.styles, ranks == 0, ranks < 5)
    return Accuracy(*(share.float().mean().item() for share in shares))


def _reconstructed(folder: Path, icons: Labelled, name: str) -> Labelled:
    """The icons through the bundled models' autoencoder, made once.

    The latents get noise, since what a model draws is rarely a clean icon's latent.
    """
    runner = runner_of(BASE)
    stored = folder / f"{name}-reconstructed-{runner.base.identity.sha256[:10]}.pt"
    if not stored.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save((255 * through(runner.vae, icons.pictures, noise=0.3)).round().byte(), stored)
    return replace(icons, pictures=torch.load(stored, weights_only=True).float() / 255)
