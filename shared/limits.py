# SPDX-License-Identifier: Apache-2.0
"""What a server takes at most. It announces its limits, so that a client can refuse before it sends."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Upper limits of one server.

    Args:
        max_megapixels (`float`): of one picture.
        max_side (`int`): of one picture, and of any dimension of any blob, in elements.
        max_blob_bytes (`int`): of one blob; larger frames are cut off by the socket itself.
        max_job_bytes (`int`): of all blobs of one job.
        max_header_bytes (`int`): of the msgpack header.
        max_blobs (`int`): blobs of one job.
        max_people (`int`): skeletons in one context.
        max_candidates (`int`): candidates that may be asked for at once.
        max_queue (`int`): jobs that wait or run.
        max_queue_bytes (`int`): blobs of all jobs that wait or run.
    """

    max_megapixels: float = 64.0
    max_side: int = 16384
    max_blob_bytes: int = 256_000_000
    max_job_bytes: int = 512_000_000
    max_header_bytes: int = 1 << 20
    max_blobs: int = 4
    max_people: int = 64
    max_candidates: int = 64
    max_queue: int = 16
    max_queue_bytes: int = 640_000_000

    @classmethod
    def for_megapixels(cls, max_megapixels: float) -> Limits:
        """The limits of a server that takes pictures of that size, two to a job (scene and actor)."""
        picture = max(cls().max_blob_bytes, int(max_megapixels * 4_000_000))
        return cls(
            max_megapixels=max_megapixels,
            max_blob_bytes=picture,
            max_job_bytes=2 * picture,
            max_queue_bytes=max(cls().max_queue_bytes, 2 * picture),
        )
