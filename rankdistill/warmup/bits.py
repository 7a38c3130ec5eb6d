"""Token ids in as many bits as the vocabulary needs: 16 for 49,152 tokens, 18 for 152,000."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def bits_for(vocabulary: int) -> int:
    """Bits of the largest id."""
    return max(1, (vocabulary - 1).bit_length())


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` ids."""
    return -(-count * bits // 8)


def pack(ids: Tensor, bits: int) -> Tensor:
    """[N, k] ids below ``2**bits`` -> [N, packed_size(k, bits)] uint8, lowest bit first."""
    places = (ids.cpu().numpy()[..., None] >> np.arange(bits)) & 1
    flat = places.astype(np.uint8).reshape(len(ids), -1)
    return torch.from_numpy(np.packbits(flat, axis=1, bitorder="little"))


def unpack(packed: Tensor, count: int, bits: int) -> Tensor:
    """[N, bytes] uint8 -> [N, count] int64."""
    flat = np.unpackbits(packed.numpy(), axis=1, count=count * bits, bitorder="little")
    places = flat.reshape(len(packed), count, bits).astype(np.int64)
    return torch.from_numpy(places @ (1 << np.arange(bits)))
