# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures with texts inside, as other tools and as attackers write them."""

import json
import struct
import zlib

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

A1111 = (
    "a photo of a (dog:1.2) <lora:fluffy:0.8>, sunset\n"
    "on a hill\n"
    "Negative prompt: blurry, low quality\n"
    "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 2551426893, Size: 512x768, "
    'Model hash: 6ce0161689, Model: v1-5-pruned, Clip skip: 2, ENSD: 31337, RNG: CPU, Lora hashes: "fluffy: '
    '0123456789ab", Eta: 0.67, Version: v1.10.1'
)
"""A text in the form of A1111, written by hand."""

COMFYUI = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler_ancestral",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["10", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned.safetensors"}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "fluffy.safetensors", "strength_model": 1, "model": ["4", 0], "clip": ["4", 1]},
    },
    "11": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 4}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["12", 0], "clip": ["11", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark", "clip": ["11", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "12": {"class_type": "PrimitiveString", "inputs": {"value": "a photo of a dog"}},
}
"""A graph in the form of ComfyUI's API, written by hand."""

INVOKEAI = {
    "generation_mode": "txt2img",
    "positive_prompt": "a photo of a dog",
    "negative_prompt": "blurry",
    "width": 512,
    "height": 768,
    "seed": 620742083,
    "rand_device": "cpu",
    "cfg_scale": 6.0,
    "cfg_rescale_multiplier": 0.7,
    "steps": 28,
    "scheduler": "dpmpp_2m_sde_k",
    "clip_skip": 1,
    "model": {"name": "stable-diffusion-v1-5", "hash": "blake3:1f2e", "base": "sd-1"},
    "loras": [{"model": {"name": "fluffy"}, "weight": 0.85}],
    "app_version": "5.6.0",
}


def png(path, texts=(), *, chunk="tEXt"):
    """A small picture with texts: ``chunk`` is tEXt (iTXt where Latin-1 does not hold it), zTXt or iTXt."""
    info = PngInfo()
    for keyword, text in dict(texts).items():
        if chunk == "iTXt":
            info.add_itxt(keyword, text, zip=True)
        else:
            info.add_text(keyword, text, zip=chunk == "zTXt")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, pnginfo=info)
    return path


def comfyui(path, graph=None):
    return png(path, {"prompt": json.dumps(graph or COMFYUI), "workflow": "{}"})


def with_chunk(path, kind, content):
    """A picture with one more chunk, whatever it holds, after the header."""
    data = png(path).read_bytes()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(data[:33] + chunk + data[33:])
    return path
