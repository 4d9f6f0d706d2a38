"""Train the demonstration model: Protenix's architecture and losses on a few dozen small domains.

    python scripts/train_demo.py --domains FOLDER --out runs/demo
    torchrun --nproc-per-node 4 scripts/train_demo.py ...    # several GPUs: a domain on each at every step

FOLDER holds gzipped PDB files, one chain of standard amino acids each. The run folder gets the choice of
domains, their features, a log, a checkpoint, the weights so far and how they were made. The same command
goes on where a run was stopped. Three stages:

    structure   everything but the confidence head, on the domains to learn
    refinement  the diffusion module alone, on the same
    confidence  the confidence head alone, on these and on domains that the model does not know (strangers)
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import math
import os
import platform
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin starve other processes

import numpy as np
import torch
import torch.distributed as dist
from demo_examples import ROLES, Example, alpha_lddt, alpha_rmsd, bonds, near_pairs, prepare, turned
from demo_network import Model, build_network
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from flashbias_fold.files import read_json, write_atomic, write_json
from flashbias_fold.protenix_adapter.checkpoints import load_weights
from flashbias_fold.protenix_adapter.features import seed_everything

STAGES = ("structure", "refinement", "confidence")
LOG_COLUMNS = ("stage", "step", "seconds", "lr", "loss", "mse", "smooth_lddt", "distogram", "bond", "frame")
LOG_COLUMNS += ("geometry", "pae", "plddt", "lddt", "rmsd")
CHECKPOINT, WEIGHTS, RECORD = "checkpoint.pt", "demo.safetensors", "training.json"
# In Angstroms: from where the hand of a fold can just be seen up to where inference begins.
HIGH_NOISE = (50.0, 5120.0)
HIGH_SHARE = 0.3
# Where bonds get their length: refinement sees it most, and less of the above.
LOW_NOISE = (0.04, 4.0)
LOW_SHARE = 0.75
REFINED_HIGH_SHARE = 0.1
GEOMETRY_WEIGHT = 10.0
# A lower noise says no more about the geometry, and would have all the weight.
LEAST_GEOMETRY_NOISE = 0.2

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What decides the weights; a checkpoint goes on only with the same."""

    trained: int = 48
    unseen: int = 24
    strangers: int = 240
    structure_steps: int = 8_000
    refinement_steps: int = 4_000
    confidence_steps: int = 2_000
    noise_samples: int = 48
    lr: float = 1e-3
    refinement_lr: float = 5e-4
    warmup: int = 500
    ema: float = 0.999
    clip: float = 10.0
    pool_samples: int = 2
    pool_refresh: int = 700
    dtype: str = "fp32"
    seed: int = 1

    @property
    def counts(self) -> dict[str, int]:
        """How many domains have each role."""
        return {role: getattr(self, role) for role in ROLES}


@dataclass(frozen=True)
class Team:
    """The processes that train together, one for each device; of one where torchrun did not start us."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Team:
        """Find the others, if torchrun started us."""
        if "RANK" not in os.environ:
            return cls()
        # NCCL wants a GPU for each process. Several may share one: the model is too small to keep it busy.
        own_gpu = device.type == "cuda" and int(os.environ["LOCAL_WORLD_SIZE"]) <= torch.cuda.device_count()
        dist.init_process_group("nccl" if own_gpu else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def average(self, gradients: list[Tensor]) -> None:
        """The mean over all processes, in place."""
        if self.size == 1:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so: all stop at the same step."""
        if self.size == 1:
            return flag
        said = torch.tensor(float(flag), device=device)
        dist.all_reduce(said)
        return bool(said)


class Order:
    """Items in random order, each once before any comes again."""

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)
        self._left: list[int] = []

    def next(self, items: Sequence[T]) -> T:
        """The next item; the items may be other ones once all have come."""
        if not self._left:
            self._left = list(range(len(items)))
            self._generator.shuffle(self._left)
        return items[self._left.pop()]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"generator": self._generator.getstate(), "left": self._left}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._generator.setstate(state["generator"])
        self._left = list(state["left"])


@dataclass
class Log:
    """Means over some steps, a line each, into a CSV file and on the screen."""

    path: Path
    every: int
    _sums: dict[str, Tensor | float] = field(default_factory=dict)
    _count: int = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """One step's losses; they stay on the device until a line is due."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        self._count += 1

    def line(self, **columns: Any) -> None:
        """Write the means since the last line."""
        row = {name: f"{float(value) / self._count:.5g}" for name, value in self._sums.items()}
        row |= {
            name: f"{value:.5g}" if isinstance(value, float) else value for name, value in columns.items()
        }
        self._sums, self._count = {}, 0
        new = not self.path.is_file()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, LOG_COLUMNS, lineterminator="\n", extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(" ".join(f"{name}={row[name]}" for name in LOG_COLUMNS if name in row), flush=True)

    def cut(self, stage: str, step: int) -> None:
        """Drop the lines after a checkpoint: those steps are done again."""
        if not self.path.is_file():
            return
        with self.path.open() as file:
            rows = list(csv.DictReader(file))
        when = STAGES.index(stage), step
        kept = [row for row in rows if (STAGES.index(row["stage"]), int(row["step"])) <= when]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, LOG_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)


class Trainer:
    """The state of a run: weights, their moving average, the optimiser, and where it is."""

    def __init__(
        self,
        settings: Settings,
        out: Path,
        examples: dict[str, list[Example]],
        device: torch.device,
        log_every: int,
        team: Team = Team(),
    ) -> None:
        from protenix.model.loss import ProtenixLoss

        self.settings = settings
        self.out = out
        self.device = device
        self.team = team
        network, self.config = build_network(settings.seed, device)
        self.model = Model(network, self.config, settings.dtype)
        # Bounds of bins and frequencies: what Protenix never trains is neither trained nor rounded.
        self.constants = {name for name, value in network.named_parameters() if not value.requires_grad}
        self.average = AveragedModel(network, multi_avg_fn=self._move_average)
        self.examples = {role: [e.to(device) for e in chosen] for role, chosen in examples.items()}
        for example in (e for chosen in self.examples.values() for e in chosen):
            network.relative_position_encoding.generate_relp(example.features)
            example.features["bond_mask"] = bonds(example)
        self.near_pairs = {example.name: near_pairs(example) for example in self.examples["trained"]}
        self.structure_loss = ProtenixLoss(self.config)
        confidence = copy.deepcopy(self.config)
        confidence.train_confidence_only = True
        confidence.loss.weight.update(alpha_confidence=1.0, alpha_pae=1.0)
        self.confidence_loss = ProtenixLoss(confidence)
        self.stage, self.step, self.seconds = STAGES[0], 0, 0.0
        self.log = Log(out / "log.csv", log_every)
        self.stop = False
        self.before: Any = None
        self._pool: list[tuple[Example, dict[str, Any], Any, Any]] = []
        self._start_stage(STAGES[0])
        seed_everything(settings.seed + team.rank)  # the same weights everywhere, then different noise

    # -- stages

    def _start_stage(self, stage: str) -> None:
        """Begin a stage from the averaged weights of the one before, with a new optimiser."""
        self.stage, self.step = stage, 0
        network: Any = self.model.network
        network.load_state_dict(self.average.module.state_dict())
        self.average.n_averaged.zero_()
        network.requires_grad_(stage == "structure")
        network.diffusion_module.requires_grad_(stage != "confidence")
        network.confidence_head.requires_grad_(stage == "confidence")
        for name in self.constants:
            network.get_parameter(name).requires_grad_(False)
        self._pool = []
        self.optimizers = self._new_optimizers()
        # All go through the domains to learn in one order, each process through its own pool.
        self.order = Order(self.settings.seed + (self.team.rank if stage == "confidence" else 0))

    def _new_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW, and in refinement Muon for the matrices: it learns many rare facts in fewer steps.

        Its steps are scaled as long as AdamW's, so that one rate does for both.
        """
        learning = [p for p in self.model.network.parameters() if p.requires_grad]
        matrices = [p for p in learning if p.ndim == 2] if self.stage == "refinement" else []
        others = [p for p in learning if p.ndim != 2] if matrices else learning
        fused = self.device.type == "cuda"
        adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
        if not matrices:
            return [adamw]
        return [adamw, torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")]

    def _move_average(self, average: Any, current: Any, count: Any) -> None:
        """Exponential moving average that forgets the start of a stage."""
        decay = min(self.settings.ema, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(average, current, 1 - decay)

    @property
    def steps(self) -> int:
        """Of this stage."""
        return int(getattr(self.settings, f"{self.stage}_steps"))

    def _rate(self) -> float:
        """Linear warm-up, then half a cosine down to a twentieth."""
        peak = self.settings.refinement_lr if self.stage == "refinement" else self.settings.lr
        warm = (self.step + 1) / self.settings.warmup
        done = self.step / max(self.steps, 1)
        return peak * min(warm, 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))

    def run(self, save_every: int, measure_every: int, deadline: float) -> bool:
        """Train to the end, or until the deadline or a signal; true when all is done."""
        started = time.monotonic() - self.seconds
        while True:
            if self.step == self.steps:
                if self.stage == STAGES[-1]:
                    break
                self._start_stage(STAGES[STAGES.index(self.stage) + 1])
                continue
            self._one_step()
            self.seconds = time.monotonic() - started
            leave = self.team.any(self.stop or time.monotonic() > deadline, self.device)
            if not self.team.leads:
                if leave:
                    return False
                continue
            if self.step % self.log.every == 0 or self.step == self.steps:
                due = self.step % measure_every == 0 or self.step == self.steps
                found = self.measure() if due and self.stage != "confidence" else {}
                self.log.line(
                    stage=self.stage, step=self.step, seconds=round(self.seconds), lr=self._rate(), **found
                )
            if self.step % save_every == 0 or self.step == self.steps or leave:
                self.save()
            if leave:
                return False
        return True

    def _one_step(self) -> None:
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group in groups:
            group["lr"] = self._rate()
        self.model.network.train()
        stages = {
            "structure": self._structure,
            "refinement": self._refinement,
            "confidence": self._confidence,
        }
        loss, metrics = stages[self.stage]()
        self.model.network.zero_grad(set_to_none=True)
        loss.backward()
        self.team.average([p.grad for p in self.model.network.parameters() if p.grad is not None])
        norm = nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], self.settings.clip)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self.average.update_parameters(self.model.network)
        losses = {name.removesuffix("_loss"): value for name, value in metrics.items()}
        self.log.add({name: losses[name] for name in LOG_COLUMNS if name in losses})
        self.step += 1

    def _structure(self) -> tuple[Tensor, dict[str, Tensor]]:
        """All of Protenix's losses but those of the confidence head."""
        example = self._turn(self.examples["trained"])
        features = turned(example.features)
        with self.model.precision():
            trunk = self.model.trunk(features, self._cycles())
        predicted, frame = self._denoise(example, features, trunk)
        weight = self.config.loss.weight
        growing = self.step / self.steps
        self.structure_loss.loss_weight["bond_loss"] = weight.alpha_diffusion * weight.alpha_bond * growing
        loss, metrics = self.structure_loss(features, predicted, example.label)
        loss = loss + weight.alpha_diffusion * frame
        return loss, metrics | {"loss": loss, "frame_loss": frame}

    def _refinement(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The diffusion module alone, on what the trunk says by now: for the last tenths of an Angstrom."""
        if not self._pool:
            self._fill_pool(self.examples["trained"], samples=0)
        example, _, trunk, _ = self._turn(self._pool)
        features = turned(example.features)
        predicted, frame = self._denoise(example, features, trunk)
        coordinate, level = predicted["coordinate"], predicted["noise_level"]
        kinds = {name: features[name] for name in ("is_dna", "is_rna", "is_ligand")}
        scale = (level**2 + self.config.sigma_data**2) / (level * self.config.sigma_data) ** 2
        mse = self.structure_loss.mse_loss(
            coordinate, example.coordinate, example.coordinate_mask, per_sample_scale=scale, **kinds
        )
        geometry = self._geometry(example, coordinate, level)
        loss = self.config.loss.weight.alpha_diffusion * (mse + frame + GEOMETRY_WEIGHT * geometry)
        return loss, {"loss": loss, "mse_loss": mse, "frame_loss": frame, "geometry_loss": geometry}

    def _geometry(self, example: Example, coordinate: Tensor, level: Tensor) -> Tensor:
        """Squared error of the lengths of bonds and of the backbone's angles, in units of the noise."""
        begin, end = self.near_pairs[example.name].unbind(-1)
        true = (example.coordinate[begin] - example.coordinate[end]).norm(dim=-1)
        error = (coordinate[:, begin] - coordinate[:, end]).norm(dim=-1) - true
        return (error.square().mean(-1) / level.clamp(min=LEAST_GEOMETRY_NOISE) ** 2).mean()

    def _denoise(
        self, example: Example, features: dict[str, Any], trunk: Any
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What Protenix's losses read, without the samples of high noise, and the loss of these: our own.

        A sample gets its handedness where noise hides the fold. There the orientation of what the network
        makes out of noise is accidental, and to be the right hand in an accidental frame takes a cross
        product, which it does not learn: Protenix's losses, which superpose first, leave half of all samples
        mirror images. So at high noise the error is taken without superposition: of the orientation next to
        nothing can be seen in such a sample, and that of the experimental file is as good as any.
        """
        predicted = self.model.denoise(example, features, trunk, self.settings.noise_samples, self._noise)
        level, coordinate = predicted["noise_level"], predicted["coordinate"]
        far = level > HIGH_NOISE[0]
        known = example.coordinate[example.coordinate_mask]
        error = (
            (coordinate[far][:, example.coordinate_mask] - (known - known.mean(0))).square().sum(-1).mean(-1)
        )
        frame = error.sum() / (self.config.sigma_data**2 * len(level))
        return {**predicted, "noise_level": level[~far], "coordinate": coordinate[~far]}, frame

    def _noise(self, size: Sequence[int], device: torch.device) -> Tensor:
        """As Protenix draws it, and some high, up to where inference begins; in refinement most is low."""
        refining = self.stage == "refinement"
        drawn = self.model.network.train_noise_sampler(size=size, device=device)
        raised = _log_uniform(HIGH_NOISE, size, device)
        which = torch.rand(size, device=device)
        drawn = torch.where(which < (REFINED_HIGH_SHARE if refining else HIGH_SHARE), raised, drawn)
        if refining:
            drawn = torch.where(which > 1 - LOW_SHARE, _log_uniform(LOW_NOISE, size, device), drawn)
        drawn[..., 0] = drawn[..., 0].clamp(max=HIGH_NOISE[0])  # Protenix's losses need one sample at least
        return drawn

    def _turn(self, items: Sequence[T]) -> T:
        """The item whose turn it is in this process; the others have the ones beside it."""
        return [self.order.next(items) for _ in range(self.team.size)][self.team.rank]

    def _cycles(self) -> int:
        """As many in all processes, drawn as Protenix draws them."""
        return int(np.random.RandomState(self.step).randint(1, self.config.model.N_cycle + 1))

    def _confidence(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Protenix's confidence losses on predictions made as inference makes them."""
        if self.step % self.settings.pool_refresh == 0 or not self._pool:
            mine = slice(self.team.rank, None, self.team.size)
            trained, strangers = self.examples["trained"][mine], self.examples["strangers"][mine]
            self._fill_pool(trained + strangers, self.settings.pool_samples)
            # As many of the one as of the other are shown.
            self._pool += self._pool[: len(trained)] * (max(1, round(len(strangers) / len(trained))) - 1)
        example, features, trunk, coordinate = self.order.next(self._pool)
        with self.model.precision():
            predicted = self.model.confidence(features, trunk, coordinate)
        return self.confidence_loss(features, predicted, example.label)

    def _fill_pool(self, examples: Sequence[Example], samples: int) -> None:
        """What the parts that are no longer trained make of each domain."""
        network = self.model.network.eval()
        self._pool = []
        for example in examples:
            features = turned(example.features)
            trunk, coordinate = self.model.fold(features, samples)
            self._pool.append((example, features, trunk, coordinate))
        network.train()

    def measure(self, every: int = 6) -> dict[str, float]:
        """C-alpha LDDT and RMSD of one structure each of some trained domains, by the averaged weights."""
        model = Model(self.average.module.eval(), self.config, self.settings.dtype)
        chosen = self.examples["trained"][::every]
        structures = [model.fold(turned(example.features), 1)[1] for example in chosen]
        return {
            name: float(torch.stack([score(*pair) for pair in zip(chosen, structures, strict=True)]).mean())
            for name, score in (("lddt", alpha_lddt), ("rmsd", alpha_rmsd))
        }

    # -- files

    def save(self) -> None:
        """Write a checkpoint, from which the same command goes on as if it had not stopped."""
        state = {
            "settings": asdict(self.settings),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
            "network": self.model.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "order": self.order.state(),
            "before": self.before,
            "generators": _generators(self.device),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.out / CHECKPOINT, buffer.getvalue())
        self.export()
        print(f"saved {self.stage} step {self.step}", flush=True)

    def start_from(self, weights: Path) -> None:
        """Begin with given weights; the record keeps how those were made, where it lies beside them."""
        load_weights(self.model.network, weights)
        self.average.module.load_state_dict(self.model.network.state_dict())
        self.before = read_json(weights.with_name(RECORD))

    def resume(self) -> bool:
        """Go on from the run folder's checkpoint; false if there is none."""
        path = self.out / CHECKPOINT
        if not path.is_file():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        different = {k for k, v in asdict(self.settings).items() if state["settings"].get(k) != v}
        if different:
            raise SystemExit(f"error: {path} was made with other settings: {', '.join(sorted(different))}")
        self._start_stage(state["stage"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.order.restore(state["order"])
        if self.team.leads:
            _restore_generators(state["generators"], self.device)
        else:  # their own were not kept
            seed_everything(self.settings.seed + self.team.rank + self.team.size * self.step)
        self.before = state["before"]
        self.log.cut(self.stage, self.step)
        print(f"resumed at {self.stage} step {self.step}", flush=True)
        return True

    def export(self) -> None:
        """Write the averaged weights so far in 16 bits, and how they were made."""
        learnt = {name for name, _ in self.average.module.named_parameters()} - self.constants
        weights = {
            name: (value.half() if name in learnt else value).contiguous().cpu()
            for name, value in self.average.module.state_dict().items()
        }
        write_atomic(self.out / WEIGHTS, save(weights))
        write_json(self.out / RECORD, self.record())

    def record(self) -> dict[str, Any]:
        """What made these weights."""
        on_gpu = self.device.type == "cuda"
        processor = platform.processor() or platform.machine()
        return {
            "settings": asdict(self.settings),
            "stage": self.stage,
            "step": self.step,
            "seconds": round(self.seconds),
            "device": torch.cuda.get_device_name(self.device) if on_gpu else processor,
            "processes": self.team.size,
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "protenix": version("protenix"),
            },
            "before": self.before,
        }


def _log_uniform(bounds: tuple[float, float], size: Sequence[int], device: torch.device) -> Tensor:
    low, high = (math.log(bound) for bound in bounds)
    return (low + (high - low) * torch.rand(size, device=device)).exp()


def _generators(device: torch.device) -> dict[str, Any]:
    name, words, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(words.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore_generators(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    name, words, *rest = state["numpy"]
    np.random.set_state((name, words.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def main(argv: list[str] | None = None) -> int:
    """Train, or go on training; 0 when the weights are written, 3 when time ran out before."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--domains", type=Path, help="folder of NAME.pdb.gz; needed until the features are made"
    )
    parser.add_argument("--out", type=Path, required=True, help="the run folder, made if need be")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after so long; the same command goes on"
    )
    parser.add_argument("--save-every", type=int, default=1000, metavar="STEPS")
    parser.add_argument("--measure-every", type=int, default=1000, metavar="STEPS")
    parser.add_argument("--log-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--start-from", type=Path, metavar="WEIGHTS", help="weights to begin a new run with")
    parser.add_argument(
        "--features-only", action="store_true", help="choose and featurise the domains, then stop"
    )
    default = Settings()
    for name, value in asdict(default).items():
        choices = ("fp32", "bf16") if name == "dtype" else None
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(value), default=value, choices=choices, help=f"default {value}")
    arguments = parser.parse_args(argv)
    settings = Settings(**{name: getattr(arguments, name) for name in asdict(default)})
    deadline = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    examples = prepare(arguments.domains, arguments.out, settings.counts, settings.seed)
    if arguments.features_only:
        return 0
    device = torch.device(arguments.device)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        device = torch.device("cuda", torch.cuda.current_device())
    team = Team.join(device)
    trainer = Trainer(settings, arguments.out, examples, device, arguments.log_every, team)
    if not trainer.resume() and arguments.start_from is not None:
        trainer.start_from(arguments.start_from)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(trainer, "stop", True))
    return 0 if trainer.run(arguments.save_every, arguments.measure_every, deadline) else 3


if __name__ == "__main__":
    sys.exit(main())
