# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""PyTorch diffusers' side: SDPA, eager or ``torch.compile``; on a GPU channels-last, bfloat16 autocast, fused AdamW.

Imports PyTorch when it is made, so that all else runs without.
"""

import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.inputs import CLASS_PROMPT, GUIDANCE, PROMPT, RATE, SCHEDULE, examples
from benchmark.measure import Run


class Torch:
    """diffusers and transformers.

    Args:
        folder: of the model.
        configs: of its parts.
        compiled: through ``torch.compile``.

    Raises:
        ImportError: where they are not installed.
    """

    def __init__(self, folder: Path, configs: dict[str, dict[str, Any]], *, compiled: bool):
        import diffusers
        import torch
        import transformers

        self.torch, self.diffusers, self.transformers = torch, diffusers, transformers
        self.folder, self.configs, self.compiled = folder, configs, compiled
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cuda":
            torch.set_float32_matmul_precision("high")

    def _part(self, cls: Any, name: str) -> Any:
        part = cls.from_pretrained(self.folder / name).to(self.device)
        if self.device == "cuda" and name != "text_encoder":
            part = part.to(memory_format=self.torch.channels_last)
        return part

    @cached_property
    def unet(self) -> Any:
        """In training mode: there is no dropout to tell it from the other."""
        unet = self._part(self.diffusers.UNet2DConditionModel, "unet").train()
        return self.torch.compile(unet) if self.compiled else unet

    @cached_property
    def text_encoder(self) -> Any:
        """Its last hidden state is what the UNet looks at."""
        return self._part(self.transformers.CLIPTextModel, "text_encoder").train()

    @cached_property
    def vae(self) -> Any:
        """Only its decoder runs."""
        return self._part(self.diffusers.AutoencoderKL, "vae")

    @cached_property
    def tokenizer(self) -> Any:
        """transformers' own."""
        return self.transformers.CLIPTokenizer.from_pretrained(self.folder / "tokenizer")

    def ready(self) -> None:
        """Read all networks: what is read in inference mode can never be trained."""
        _ = self.unet, self.vae, self.text_encoder

    def autocast(self) -> Any:
        """bfloat16 where it is fast."""
        return self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.device == "cuda")

    def wait(self) -> None:
        """Until the device is done."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def put(self, array: np.ndarray) -> Any:
        """NHWC pictures become NCHW."""
        array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def noise_schedule(self) -> Any:
        """What noise is added by."""
        betas = {name: value for name, value in SCHEDULE.items() if name.startswith("beta")}
        return self.diffusers.DDPMScheduler(**betas)

    def _loss(self, scheduler: Any, latents: Any, noise: Any, timesteps: Any, text: Any, batch: int) -> Any:
        with self.autocast():
            if not text.is_floating_point():
                text = self.text_encoder(text).last_hidden_state
            prediction = self.unet(scheduler.add_noise(latents, noise, timesteps), timesteps, text).sample
        return (prediction.float() - noise).square().mean((1, 2, 3)).sum() / batch

    def loss(self, batch: int, *, text: bool) -> float:
        """Of the examples as they are drawn."""
        drawn = examples(self.configs, 2 * batch)
        arrays = drawn.latents, drawn.noise, drawn.timesteps, drawn.input_ids if text else drawn.text_states
        with self.torch.no_grad():
            inputs = [self.put(array).long() if array.dtype == np.int32 else self.put(array) for array in arrays]
            return float(self._loss(self.noise_schedule(), *inputs, batch))

    def lora_step(self, batch: int, rank: int) -> Run:
        """One optimizer step of PEFT's low-rank matrices, on the same layers as ours."""
        import peft

        layers = r".*attentions\..*\.(proj_in|proj_out|to_[qkv]|to_out\.0|net\.0\.proj|net\.2)|.*\.proj_(in|out)"
        unet = self._part(self.diffusers.UNet2DConditionModel, "unet").train()
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
        unet = peft.inject_adapter_in_model(config, unet)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_("lora_" in name)
        self.unet = self.torch.compile(unet) if self.compiled else unet
        return self.step(batch, text=False)

    def step(self, batch: int, *, text: bool) -> Run:
        """One optimizer step, noise and all."""
        torch, drawn, scheduler = self.torch, examples(self.configs, 2 * batch), self.noise_schedule()
        mean, states = (
            self.put(drawn.latents),
            self.put(drawn.input_ids).long() if text else self.put(drawn.text_states),
        )
        parameters = list(self.unet.parameters()) + (list(self.text_encoder.parameters()) if text else [])
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=self.device == "cuda")

        def run() -> None:
            latents, noise = mean + 0.01 * torch.randn_like(mean), torch.randn_like(mean)
            timesteps = torch.randint(0, 1000, (len(mean),), device=self.device)
            self._loss(scheduler, latents, noise, timesteps, states, batch).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.wait()

        return run

    def scheduler(self, name: str) -> Any:
        """The sampler of ours that is called so."""
        if name == "dpmpp_2m":
            return self.diffusers.DPMSolverMultistepScheduler(**SCHEDULE)
        return self.diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False)

    def denoise(self, x: Any, text: Any, steps: int, name: str = "ddim") -> Any:
        """A guided run; ``text``: negative ∥ positive."""
        scheduler = self.scheduler(name)
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            negative, positive = self.unet(self.torch.cat([x, x]), t, text).sample.float().chunk(2)
            x = scheduler.step(negative + GUIDANCE * (positive - negative), t, x).prev_sample
        return x

    def sampler(self, name: str, batch: int, steps: int) -> Run:
        """From noise to latents."""
        drawn = examples(self.configs, 2 * batch)
        start, text = self.put(drawn.noise[:batch]), self.put(drawn.text_states)
        self.ready()

        def run() -> None:
            with self.torch.inference_mode(), self.autocast():
                self.denoise(start, text, steps, name)
            self.wait()

        return run

    def load(self) -> Run:
        """All three networks, from the folder to the device, in float32."""
        networks = {
            "unet": self.diffusers.UNet2DConditionModel,
            "vae": self.diffusers.AutoencoderKL,
            "text_encoder": self.transformers.CLIPTextModel,
        }

        def run() -> None:
            for name, cls in networks.items():
                self._part(cls, name)
            self.wait()

        return run

    def encode(self, prompts: list[str]) -> Any:
        """Text states."""
        length = self.configs["text_encoder"]["max_position_embeddings"]
        ids = self.tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.text_encoder(ids.input_ids.to(self.device)).last_hidden_state

    def pictures(self, prompts: list[str], steps: int) -> np.ndarray:
        """uint8 [b, h, w, 3]."""
        side = self.configs["unet"]["sample_size"]
        self.ready()
        with self.torch.inference_mode(), self.autocast():
            text = self.encode([""] * len(prompts) + prompts)
            noise = self.torch.randn(len(prompts), 4, side, side, device=self.device)
            latents = self.denoise(noise, text, steps) / self.vae.config.scaling_factor
            decoded = self.vae.decode(latents).sample.float().clamp(-1, 1)
        return (127.5 * (decoded.permute(0, 2, 3, 1) + 1)).round().byte().cpu().numpy()

    def class_images(self, batch: int, steps: int) -> Run:
        """Prompts to pictures, text encoder and decoder included."""
        return lambda: self.pictures([CLASS_PROMPT] * batch, steps)

    def forget(self) -> None:
        """The networks and what was computed with them: the next work starts anew, and has the memory."""
        for name in ("unet", "vae", "text_encoder"):
            self.__dict__.pop(name, None)
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    def personalise(
        self, photos: np.ndarray, out: Path, *, class_images: int, batch: int, draw_steps: int, steps: int
    ) -> None:
        """Photos [n, h, w, 3] to a saved model: class images, caches, 1 + 1 training of the UNet, files."""
        torch = self.torch
        rounds = range(0, class_images, batch)
        drawn = np.concatenate([self.pictures([CLASS_PROMPT] * batch, draw_steps) for _ in rounds])[:class_images]
        with torch.no_grad(), self.autocast():
            pictures = [np.float32(one[None]) / 127.5 - 1 for one in itertools.chain(photos, drawn)]
            found = [self.vae.encode(self.put(one)).latent_dist for one in pictures]
            states = self.encode([PROMPT, CLASS_PROMPT]).float()
        optimizer = torch.optim.AdamW(self.unet.parameters(), lr=RATE, fused=self.device == "cuda")
        scheduler = self.noise_schedule()
        for step in range(steps):
            chosen = found[step % len(photos)], found[len(photos) + step % class_images]
            latents = torch.cat([one.sample() for one in chosen]).float() * self.vae.config.scaling_factor
            noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (2,), device=self.device)
            self._loss(scheduler, latents, noise, timesteps, states, 1).backward()
            torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name in ("unet", "vae", "text_encoder"):
            part = getattr(self, name)
            getattr(part, "_orig_mod", part).save_pretrained(out / name)

    @property
    def peak_bytes(self) -> int | None:
        """Of this process on the GPU."""
        return self.torch.cuda.max_memory_allocated() if self.device == "cuda" else None
