# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Data sheets as one table: what a chip has, and how fast it is at best.

All numbers are of one jax device, decimal where vendors write them so, and dense: vendors print twice as much for
matrices that are half zeros. Rates are peaks, which nothing reaches; good for lower bounds of time, never for its
prediction.

A product of float32 matrices is not exact by default, and the rate is that of what really runs. On NVIDIA GPUs from
Ampere on XLA lets cuBLAS and cuDNN use TF32 (10 bits of mantissa); on TPUs the default precision is one pass in
bfloat16, so that float32 is as fast as bfloat16. ``jax_default_matmul_precision="highest"`` is exact and several
times slower on both.
"""

from dataclasses import dataclass

from dreambooth_jax.errors import InputError

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class GPU:
    """What XLA's compiler asks about an NVIDIA GPU; bytes, and GHz for the clock.

    Attributes:
        cores: streaming multiprocessors.
        units: float32 units in each.
        threads: the most that are resident on a core.
        shared: shared memory of a core.
        shared_per_block: the most of it that one block may ask for.
        l2: the second-level cache of the whole chip.
        clock: boost clock.
        accelerated: compile for the chip itself (``sm_90a``) and not for its family (``sm_90``), as XLA does on a
            real one.
    """

    cores: int
    units: int
    threads: int
    shared: int
    shared_per_block: int
    l2: int
    clock: float
    accelerated: bool = False


@dataclass(frozen=True, kw_only=True)
class TPU:
    """How chips of a TPU generation are put together.

    Attributes:
        sides: numbers in a topology: 2 for a torus in a plane, 3 in space.
        largest: chips of the largest slice.
        host: chips of one host as libtpu wants them, of slices of more than one host.
        accelerator: what Cloud TPU calls a slice of one such host.
        megacore: both cores of a chip are one jax device.
    """

    sides: int
    largest: int
    host: tuple[int, int, int] = (2, 2, 1)
    accelerator: str
    megacore: bool


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of device.

    Attributes:
        name: ours, as in ``h100:8``.
        kind: ``device_kind`` that jax shows.
        generation: compute capability (``9.0``) or TPU version (``v5e``).
        memory: bytes that the driver (GPU) or the compiler (TPU) lets programs have; a little less than is soldered
            on.
        bfloat16: operations a second in bfloat16 products summed in float32; float16 is the same on all GPUs here,
            but the T4, where it is much faster.
        float32: operations a second in float32 products as jax does them by default: TF32 on GPUs, bfloat16 on TPUs.
        bandwidth: bytes a second from and to device memory.
        link: bytes a second that a device can send to others of its host (GPU) or slice (TPU), over all its links
            together; it can receive as much at the same time. Through PCIe where there is no NVLink.
        network: the same between hosts, for each device, or None: TPU slices have no other links, and for cards that
            are sold singly nobody says. An assumption about the machine, not a property of the card: NVIDIA's own
            (DGX).
        source: where the numbers are from.
        details: for the compiler.
    """

    name: str
    kind: str
    generation: str
    memory: int
    bfloat16: float
    float32: float
    bandwidth: float
    link: float
    network: float | None = None
    source: str
    details: GPU | TPU

    @property
    def platform(self) -> str:
        """``gpu`` or ``tpu``."""
        return "gpu" if isinstance(self.details, GPU) else "tpu"

    def peak(self, dtype: str) -> float:
        """Operations a second in products of this dtype."""
        peaks = {"bfloat16": self.bfloat16, "float16": self.bfloat16, "float32": self.float32}
        if dtype not in peaks:
            raise InputError(f"dtype {dtype!r}: no peak of {self.name} is known for it; one of {', '.join(peaks)}")
        return peaks[dtype]


_TURING = GPU(
    cores=40,
    units=64,
    threads=1024,
    shared=65536,
    shared_per_block=65536,
    l2=4 * 2**20,
    clock=1.59,
)
_AMPERE = GPU(
    cores=108,
    units=64,
    threads=2048,
    shared=167936,
    shared_per_block=166912,
    l2=40 * 2**20,
    clock=1.41,
)
_HOPPER = GPU(
    cores=132,
    units=128,
    threads=2048,
    shared=233472,
    shared_per_block=232448,
    l2=50 * 2**20,
    clock=1.98,
    accelerated=True,
)
_BLACKWELL = GPU(
    cores=148,
    units=128,
    threads=2048,
    shared=233472,
    shared_per_block=232448,
    l2=132644864,
    clock=1.965,
    accelerated=True,
)
_RTX5090 = GPU(
    cores=170,
    units=128,
    threads=1536,
    shared=102400,
    shared_per_block=101376,
    l2=96 * 2**20,
    clock=2.407,
    accelerated=True,
)
_RTX3090 = GPU(
    cores=82,
    units=128,
    threads=1536,
    shared=102400,
    shared_per_block=101376,
    l2=6 * 2**20,
    clock=1.695,
)
_L4 = GPU(
    cores=58,
    units=128,
    threads=1536,
    shared=102400,
    shared_per_block=101376,
    l2=48 * 2**20,
    clock=2.04,
)
_RTX4090 = GPU(
    cores=128,
    units=128,
    threads=1536,
    shared=102400,
    shared_per_block=101376,
    l2=72 * 2**20,
    clock=2.52,
)

_TABLE = [
    Chip(
        name="t4", kind="Tesla T4", generation="7.5", memory=15109 * 2**20,
        # it multiplies float16 fast, but not bfloat16, which XLA computes in float32
        bfloat16=8.1e12, float32=8.1e12, bandwidth=320e9, link=16e9, details=_TURING,
        source="NVIDIA T4 Tensor Core GPU data sheet; PCIe 3.0 with 16 lanes",
    ),
    Chip(
        name="a100-40", kind="NVIDIA A100-SXM4-40GB", generation="8.0", memory=42331013120,
        bfloat16=312e12, float32=156e12, bandwidth=1555e9, link=300e9, network=25e9, details=_AMPERE,
        source="NVIDIA A100 Tensor Core GPU data sheet, SXM; DGX A100: 200 Gb/s for each GPU",
    ),
    Chip(
        name="a100-80", kind="NVIDIA A100-SXM4-80GB", generation="8.0", memory=85100068864,
        bfloat16=312e12, float32=156e12, bandwidth=2039e9, link=300e9, network=25e9, details=_AMPERE,
        source="NVIDIA A100 Tensor Core GPU data sheet, SXM; DGX A100: 200 Gb/s for each GPU",
    ),
    Chip(
        name="h100", kind="NVIDIA H100 80GB HBM3", generation="9.0", memory=84942979072,
        bfloat16=989.5e12, float32=494.5e12, bandwidth=3.35e12, link=450e9, network=50e9, details=_HOPPER,
        source="NVIDIA H100 Tensor Core GPU data sheet, SXM; DGX H100: 400 Gb/s for each GPU",
    ),
    Chip(
        name="h200", kind="NVIDIA H200 141GB HBM3e", generation="9.0", memory=151397597184,
        bfloat16=989.5e12, float32=494.5e12, bandwidth=4.8e12, link=450e9, network=50e9, details=_HOPPER,
        source="NVIDIA H200 Tensor Core GPU data sheet, SXM; DGX H200: 400 Gb/s for each GPU",
    ),
    Chip(
        name="rtx3090", kind="NVIDIA GeForce RTX 3090", generation="8.6", memory=24259 * 2**20,
        bfloat16=71e12, float32=35.6e12, bandwidth=936e9, link=32e9, details=_RTX3090,
        source="NVIDIA Ampere GA102 white paper, products summed in float32; PCIe 4.0 with 16 lanes",
    ),
    Chip(
        name="rtx5090", kind="NVIDIA GeForce RTX 5090", generation="12.0", memory=32109 * 2**20,
        bfloat16=209.5e12, float32=104.8e12, bandwidth=1792e9, link=64e9, details=_RTX5090,
        source="NVIDIA RTX Blackwell GPU architecture white paper, products summed in float32; PCIe 5.0 with 16 lanes",
    ),
    Chip(
        name="l4", kind="NVIDIA L4", generation="8.9", memory=23583784960,
        bfloat16=121e12, float32=60e12, bandwidth=300e9, link=32e9, details=_L4,
        source="NVIDIA L4 Tensor Core GPU data sheet; PCIe 4.0 with 16 lanes",
    ),
    Chip(
        name="rtx4090", kind="NVIDIA GeForce RTX 4090", generation="8.9", memory=24217 * 2**20,
        bfloat16=165.2e12, float32=82.6e12, bandwidth=1008e9, link=32e9, details=_RTX4090,
        source="NVIDIA Ada GPU architecture white paper, products summed in float32; PCIe 4.0 with 16 lanes",
    ),
    Chip(
        name="b200", kind="NVIDIA B200", generation="10.0", memory=191514411008,
        bfloat16=2250e12, float32=1125e12, bandwidth=7.7e12, link=900e9, network=50e9, details=_BLACKWELL,
        source="NVIDIA HGX B200 data sheet, an eighth of a board; DGX B200: 400 Gb/s for each GPU",
    ),
    Chip(
        name="v4", kind="TPU v4", generation="v4", memory=int(30.75 * _GIB),
        bfloat16=275e12, float32=275e12, bandwidth=1228e9, link=300e9,
        details=TPU(sides=3, largest=4096, accelerator="v4-8", megacore=True),
        source="Cloud TPU v4 documentation: 32 GB, links 2400 Gb/s a chip",
    ),
    Chip(
        name="v5e", kind="TPU v5 lite", generation="v5e", memory=int(15.75 * _GIB),
        bfloat16=197e12, float32=197e12, bandwidth=819e9, link=200e9,
        details=TPU(sides=2, largest=256, accelerator="v5litepod-4", megacore=False),
        source="Cloud TPU v5e documentation: 16 GB, links 1600 Gb/s a chip",
    ),
    Chip(
        name="v5p", kind="TPU v5", generation="v5p", memory=int(95.74 * _GIB),
        bfloat16=459e12, float32=459e12, bandwidth=2765e9, link=600e9,
        details=TPU(sides=3, largest=8960, accelerator="v5p-8", megacore=True),
        source="Cloud TPU v5p documentation: 95 GB, links 4800 Gb/s a chip",
    ),
    Chip(
        name="v6e", kind="TPU v6 lite", generation="v6e", memory=int(31.25 * _GIB),
        bfloat16=918e12, float32=918e12, bandwidth=1640e9, link=448e9,
        details=TPU(sides=2, largest=256, accelerator="v6e-4", megacore=False),
        source="Cloud TPU v6e documentation: 32 GB, links 3584 Gb/s a chip",
    ),
]  # fmt: skip

CHIPS: dict[str, Chip] = {chip.name: chip for chip in _TABLE}


def of_kind(kind: str) -> Chip | None:
    """The chip that jax's ``device_kind`` names, or None where the table has none of it."""
    return next((chip for chip in _TABLE if chip.kind == kind), None)
