"""What `dataset_tool.py` does: source -> channels -> transform -> PNG -> folder or zip. No torch.

`convert` is the whole job as one function. Threads share the work per picture (decoding, resizing
and encoding leave Python's lock), and the result does not depend on how many there are.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
from PIL import Image

from dnnlib.progress import progress
from networks.shapes import fitting_shapes
from training.dataset_files import DatasetError
from training.dataset_labels import LABEL_FILE
from training.dataset_output import AtomicOutput
from training.dataset_sources import Source, open_source
from training.dataset_transform import CHANNEL_NAMES, Transform, force_channels


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions:
    """Options of `dataset_tool.py`.

    Attributes:
        source: See `open_source`.
        dest: See `AtomicOutput`.
        max_images: Look only at so many pictures of the source, from its start. None = all.
        transform: See `Transform`.
        labels_from_folders: See `FilesSource`.
        channels: Convert every picture to 1, 3 or 4 channels. None = keep, and mixing is an error.
        skip_errors: Leave out broken and odd pictures, instead of stopping at the first one.
        workers: Number of threads. None = one per CPU core.
    """

    source: str
    dest: str
    max_images: int | None = None
    transform: Transform = field(default_factory=Transform)
    labels_from_folders: bool = False
    channels: int | None = None
    skip_errors: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if not self.source:
            raise DatasetError("--source must not be empty; give a folder or an archive")
        if not self.dest:
            raise DatasetError("--dest must not be empty; give a folder or a .zip file")
        if self.max_images is not None and self.max_images < 1:
            raise DatasetError(f"--max-images={self.max_images} must be at least 1")
        if self.workers is not None and self.workers < 1:
            raise DatasetError(f"--workers={self.workers} must be at least 1")
        if self.channels is not None and self.channels not in CHANNEL_NAMES:
            raise DatasetError(f"--force-channels={self.channels} must be 1, 3 or 4")
        if os.path.abspath(self.source) == os.path.abspath(self.dest):
            raise DatasetError(f'--dest is the source itself: "{self.dest}"; give another name')


@dataclass(slots=True)
class ConvertReport:
    """What `convert` has done.

    Attributes:
        dest: Where the result is.
        shape: (height, width, channels) of every picture.
        num_written: Pictures in the result.
        num_dropped: Pictures that the transform found too small.
        skipped: One sentence per picture left out because of an error.
        num_unlabelled: Pictures of the result for which the source has no label.
        first_unlabelled: Name of the first of these.
        class_names: Name of every class id, None = not known.
        labelled: Whether the result has labels.
    """

    dest: str
    shape: tuple[int, int, int] = (0, 0, 0)
    num_written: int = 0
    num_dropped: int = 0
    skipped: list[str] = field(default_factory=list)
    num_unlabelled: int = 0
    first_unlabelled: str = ""
    class_names: list[str] | None = None
    labelled: bool = False

    @property
    def suits_stylegan2(self) -> bool:
        """Whether pictures are squares with a power of two, of at least 8, as side."""
        height, width, _channels = self.shape
        return height == width >= 8 and height & (height - 1) == 0

    def lines(self) -> list[str]:
        """The report as lines of text."""
        height, width, channels = self.shape
        kind = CHANNEL_NAMES[channels]
        lines = [f"Wrote {self.num_written} pictures, {width}x{height} {kind}, to {self.dest}"]
        if self.labelled and self.class_names is not None:
            names = ", ".join(self.class_names[:10]) + (", ..." if self.class_names[10:] else "")
            lines.append(f"Labels: {len(self.class_names)} classes ({names})")
        elif self.labelled:
            lines.append("Labels: yes")
        elif self.num_unlabelled < self.num_written:
            lines.append(
                f"Labels: none, because {self.num_unlabelled} pictures have no label, "
                f'the first is "{self.first_unlabelled}"'
            )
        else:
            lines.append("Labels: none")
        if self.num_dropped:
            lines.append(f"Dropped as smaller than the target: {self.num_dropped}")
        if self.skipped:
            lines += [f"Skipped: {len(self.skipped)}", *(f"  {text}" for text in self.skipped)]
        if not self.suits_stylegan2:
            lines.append(
                "Note: --generator=stylegan2 needs square pictures with a power of two as side"
            )
        larger, smaller = fitting_shapes(height, width)
        if (height, width) != larger:
            below = "" if smaller is None else f" or {smaller[1]}x{smaller[0]}"
            lines.append(
                f"Note: train.py takes {larger[1]}x{larger[0]}{below}, but not {width}x{height}; "
                "--transform=pad adds borders"
            )
        return lines


@dataclass(frozen=True, slots=True)
class _Converted:
    """One picture's way: PNG bytes, or dropped (neither), or an error message."""

    png: bytes | None = None
    shape: tuple[int, int, int] | None = None
    error: str | None = None


def convert(options: ConvertOptions) -> ConvertReport:
    """Converts a source into a folder or zip archive that `training.dataset` reads.

    Picture i of the source becomes `<first 5 digits of %08d>/img%08d.png`; `dataset.json` holds
    labels, class names and how the set was made. On any error nothing is left behind.

    Raises:
        DatasetError: on bad options, an unreadable source, an unusable destination, and, unless
            errors are skipped, a picture that is broken or unlike the first one.
    """
    with contextlib.ExitStack() as stack:
        source = open_source(
            options.source,
            labels_from_folders=options.labels_from_folders,
            max_pictures=options.max_images,
        )
        stack.callback(source.close)
        try:
            output = stack.enter_context(AtomicOutput(options.dest))
            report = _write_pictures(options, source, output)
            output.commit()
        except DatasetError:
            raise
        except OSError as error:
            raise DatasetError(
                f'cannot write "{options.dest}": {error.strerror or error}'
            ) from error
    return report


def _write_pictures(options: ConvertOptions, source: Source, output: AtomicOutput) -> ConvertReport:
    count = min(len(source), options.max_images or len(source))
    report = ConvertReport(dest=options.dest, class_names=source.class_names)
    labels: list[tuple[str, Any]] = []
    digest = hashlib.sha256()
    first_name = ""

    with contextlib.closing(_converted_in_order(options, source, count)) as results:
        for index in progress(range(count), "Converting", "img"):
            done = next(results)
            name = source.name(index)
            error = done.error
            if done.shape is not None and first_name and done.shape != report.shape:
                error = _unlike_message(first_name, report.shape, name, done.shape)
            if error is not None:
                if not options.skip_errors:
                    raise DatasetError(f"{error}, or leave such pictures out with --on-error=skip")
                report.skipped.append(error)
                continue
            if done.png is None:
                report.num_dropped += 1
                continue
            if not first_name:
                first_name, report.shape = name, done.shape
                _check_free_space(options.dest, count * len(done.png))
            file_name = f"{index // 1000:05d}/img{index:08d}.png"
            output.write(file_name, done.png)
            digest.update(done.png)
            labels.append((file_name, source.label(index)))
            if labels[-1][1] is None:
                report.num_unlabelled += 1
                report.first_unlabelled = report.first_unlabelled or name

    report.num_written = len(labels)
    if not labels:
        raise DatasetError(_nothing_left_message(options, report))
    report.labelled = report.num_unlabelled == 0
    content = _label_file(options, source, report, labels, digest.hexdigest())
    output.write(LABEL_FILE, content)
    return report


def _converted_in_order(
    options: ConvertOptions, source: Source, count: int
) -> Iterator[_Converted]:
    """Results in source order, computed by threads that run only a little ahead."""

    def work(index: int) -> _Converted:
        try:
            pixels = source.picture(index)
        except DatasetError as error:
            return _Converted(error=str(error))
        if options.channels is not None:
            pixels = force_channels(pixels, options.channels)
        pixels = options.transform(pixels)
        return _Converted() if pixels is None else _Converted(_png(pixels), pixels.shape)

    workers = options.workers or os.cpu_count() or 1
    pending: collections.deque[Future[_Converted]] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for index in range(count):
                pending.append(pool.submit(work, index))
                if len(pending) >= 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _png(pixels: np.ndarray) -> bytes:
    """PNG file without compression: large, but cheap to decode in every epoch of a training."""
    buffer = io.BytesIO()
    pixels = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="png", compress_level=0)
    return buffer.getvalue()


def _unlike_message(
    first_name: str, first: tuple[int, int, int], name: str, shape: tuple[int, int, int]
) -> str:
    if first[2] != shape[2]:
        return (
            f'"{name}" is {CHANNEL_NAMES[shape[2]]}, but "{first_name}" is '
            f"{CHANNEL_NAMES[first[2]]}: convert all with --force-channels=1 (grey), 3 (RGB) or "
            "4 (RGBA)"
        )
    return (
        f'"{name}" comes out {shape[1]}x{shape[0]} (width x height), but "{first_name}" '
        f"{first[1]}x{first[0]}: give --width and --height, e.g. with --transform=center-crop"
    )


def _nothing_left_message(options: ConvertOptions, report: ConvertReport) -> str:
    if report.skipped:
        return (
            f'nothing left of "{options.source}": {len(report.skipped)} pictures skipped, '
            f"{report.num_dropped} dropped as too small; the first: {report.skipped[0]}"
        )
    return (
        f'every picture of "{options.source}" is smaller than '
        f"{options.transform.width}x{options.transform.height}; give a smaller size"
    )


def _check_free_space(dest: str, num_bytes: int) -> None:
    """Fails at the start rather than after hours."""
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(dest))).free
    if num_bytes > free:
        raise DatasetError(
            f'"{dest}" will take about {num_bytes / 2**30:.1f} GiB, but only '
            f"{free / 2**30:.1f} GiB are free; choose another disk, a smaller size or --max-images"
        )


def _label_file(
    options: ConvertOptions,
    source: Source,
    report: ConvertReport,
    labels: list[tuple[str, Any]],
    digest: str,
) -> bytes:
    """`dataset.json`; readers of the plain format look at "labels" only."""
    transform = options.transform
    content: dict[str, Any] = {"labels": [list(pair) for pair in labels]}
    if not report.labelled:
        content["labels"] = None
    elif source.class_names is not None:
        content["class_names"] = source.class_names
    content["provenance"] = {
        "source": os.path.basename(os.path.normpath(options.source)),
        "source_kind": source.kind,
        "transform": transform.kind,
        "width": transform.width,
        "height": transform.height,
        "resize_filter": transform.resize_filter,
        "force_channels": options.channels,
        "max_images": options.max_images,
        "shape": [report.shape[2], *report.shape[:2]],
        "num_images": report.num_written,
        "num_dropped": report.num_dropped,
        "num_skipped": len(report.skipped),
        "sha256": digest,
        "pillow": PIL.__version__,
    }
    return json.dumps(content).encode()
