"""Rewards without a gradient for `rlr bench learn`: a count of objects in plain Python, and a vote of somebody unsure."""

import hashlib
import math

SIDE, VIVID, SMALLEST = 32, 0.25, 6
"""Pictures are looked at in this size; what is this colourful, on so many pixels together, is an object."""


def count(images, prompts):
    """How many objects there are: connected regions of colourful pixels, found by flood fill."""
    return [_count(picture) for picture in _small(images)]


def vote(images, prompts):
    """1 or 0: whether somebody likes the picture, who likes colourful ones, and would often vote otherwise another time."""
    return [float(_chance(image) < 1 / (1 + math.exp(-20 * (_colourful(image) - 0.3)))) for image in images]


def _colourful(image):
    return float((image.amax(0) - image.amin(0)).mean())


def _chance(image):
    """A number from 0 to 1 that is drawn by the picture itself, so that it is the same for the same one."""
    pixels = (image * 255).round().byte().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(pixels, digest_size=4).digest(), "big") / 2**32


def _small(images):
    factor = max(images.shape[-1] // SIDE, 1)
    small = images.unfold(2, factor, factor).unfold(3, factor, factor).mean((4, 5))
    return ((image.amax(0) - image.amin(0) > VIVID).tolist() for image in small)


def _count(vivid):
    seen, found = set(), 0
    for y, row in enumerate(vivid):
        for x, is_vivid in enumerate(row):
            if is_vivid and (y, x) not in seen:
                found += _region(vivid, (y, x), seen) >= SMALLEST
    return float(found)


def _region(vivid, start, seen):
    """Pixels of the region that `start` is in, all of which are then seen."""
    waiting, size = [start], 0
    seen.add(start)
    while waiting:
        y, x = waiting.pop()
        size += 1
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= near[0] < len(vivid) and 0 <= near[1] < len(vivid[0])
            if inside and near not in seen and vivid[near[0]][near[1]]:
                seen.add(near)
                waiting.append(near)
    return size
