"""The order of a folder's images, worked out from their names alone.

A name is a series of texts and numbers. Names whose texts agree form a sequence, such as
`shot_8_v2` and `shot_10_v2`. Where several of its numbers differ, the outer ones tell sequences
apart (`take1_001`, `take2_001`) and the next one counts the images.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

#: Lossless formats first: of images that differ in their suffix alone, the first of these is read.
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".webp", ".jpg", ".jpeg")

# A moment, such as 12-00-59 or 2026-01-31_12.00.59.040, is one number of several parts. A hyphen is
# a minus only where it can't be a dash, as it is in frame-5.
_MOMENT = r"(?P<moment> \d{1,4} (?: [-_.:][0-5]\d ){2,} (?: [-_.,]\d{3} )? ) (?!\d)"
_INTEGER = r"(?: (?<![^_.=(\[]) - )? \d+"
_WITH_INTEGERS = re.compile(f"{_MOMENT} | {_INTEGER}", re.VERBOSE)
_WITH_DECIMALS = re.compile(rf"{_MOMENT} | {_INTEGER} (?: \.\d+ )?", re.VERBOSE)


@dataclass(frozen=True)
class ImageSequence:
    """Images that follow one another, in order.

    Attributes:
        files: The images.
        counter: For each file the number in its name that counts them; empty if none does.
    """

    files: tuple[Path, ...]
    counter: tuple[Fraction, ...]

    def __str__(self) -> str:
        first, last = self.files[0].name, self.files[-1].name
        return first if len(self.files) == 1 else f"{first} to {last} ({len(self.files)})"

    def repeats(self) -> list[str]:
        """Returns the names of files with the number of the file before, such as frame_01 after
        frame_1."""
        if len(self.counter) < len(self.files):
            return []
        pairs = zip(self.files[1:], pairwise(self.counter), strict=True)
        return [file.name for file, (before, number) in pairs if before == number]

    def gaps(self) -> list[str]:
        """Returns the numbers that are missing, such as "12-14", if the counter rises in even
        steps."""
        steps = Counter(b - a for a, b in pairwise(self.counter) if a != b)
        step = min(steps, key=lambda step: (-steps[step], step), default=Fraction(0))
        # One step alone is no rule; times and random numbers have no even steps.
        if step <= 0 or steps.total() < 2 or any(other % step for other in steps):
            return []
        if (self.counter[-1] - self.counter[0]) / step > 100 * len(self.files):
            return []
        return [
            _span(before + step, after - step)
            for before, after in pairwise(self.counter)
            if after - before > step
        ]


def order_images(files: Iterable[Path]) -> tuple[list[ImageSequence], list[str]]:
    """Orders image files as people count, by their whole names.

    Args:
        files: Images of one folder, with suffixes of `IMAGE_SUFFIXES`.

    Returns:
        The sequences to read, one after the other, and what users should know of them, a line each.
    """
    files, copies = _separate_copies(files)
    sequences = _split_into_sequences(sorted(_parse_names(files), key=lambda name: name.sort_key))
    notes = []
    if copies:
        notes.append(
            "Images with the name of another and a different suffix are left out: "
            f"{_abridge(sorted(file.name for file in copies))}."
        )
    if len(sequences) > 1:
        notes.append(
            f"{len(sequences)} sequences of images are read one after the other, with no new "
            f"frames from one to the next: {_abridge(map(str, sequences))}. To interpolate them "
            "one by one, give each a folder of its own."
        )
    for sequence in sequences:
        if repeats := sequence.repeats():
            notes.append(f"Numbers occur twice in {sequence}: {_abridge(repeats)}. All are read.")
        if gaps := sequence.gaps():
            notes.append(
                f"Numbers are missing in {sequence}: {_abridge(gaps)}. The images are "
                "evenly spaced in time all the same."
            )
    return sequences, notes


@dataclass(frozen=True)
class _ImageName:
    """A file, and its name without the suffix, split at its numbers.

    Attributes:
        file: The file.
        texts: What precedes each number, and what follows the last.
        numbers: The parts of each number; only moments have more than one.
    """

    file: Path
    texts: tuple[str, ...]
    numbers: tuple[tuple[Fraction, ...], ...]

    @property
    def sort_key(self) -> tuple:
        pieces = zip(self.texts, (*self.numbers, ()), strict=True)
        return *(piece for pair in pieces for piece in pair), self.file.name


def _parse_names(files: list[Path]) -> list[_ImageName]:
    # 0.2, 0.12 are decimals, and so are 0.20, 0.12; in 0.9, 0.10 what follows the dot counts.
    after_dots = [digits for file in files for digits in re.findall(r"(?<=\d\.)\d+", file.stem)]
    are_decimals = len(set(map(len, after_dots))) == 1 or not any(
        len(digits) > 1 and int(digits[-1]) == 0 for digits in after_dots
    )
    pattern = _WITH_DECIMALS if are_decimals else _WITH_INTEGERS
    names = []
    for file in files:
        texts, numbers, end = [], [], 0
        for match in pattern.finditer(file.stem):
            texts.append(file.stem[end : match.start()].casefold())
            parts = re.findall(r"\d+", match[0]) if match["moment"] else [match[0]]
            numbers.append(tuple(map(Fraction, parts)))
            end = match.end()
        texts.append(file.stem[end:].casefold())
        names.append(_ImageName(file, tuple(texts), tuple(numbers)))
    return names


def _separate_copies(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Returns the files to read, and those that differ from one of them in their suffix alone."""
    kept, copies = {}, []
    for file in sorted(files, key=lambda file: IMAGE_SUFFIXES.index(file.suffix.lower())):
        if kept.setdefault(file.stem, file) is not file:
            copies.append(file)
    return list(kept.values()), copies


def _split_into_sequences(names: list[_ImageName]) -> list[ImageSequence]:
    """Groups sorted names into sequences, each with what its names have in common: the texts, and
    the numbers before the one that counts."""
    groups: dict[tuple[str, ...], list[_ImageName]] = defaultdict(list)
    for name in names:
        groups[name.texts].append(name)
    counters = {texts: _find_counter(group) for texts, group in groups.items() if len(group) > 1}
    keys = [
        (name.texts, name.numbers[: counters[name.texts]]) if name.texts in counters else None
        for name in names
    ]
    sequences: dict[tuple | None, list[_ImageName]] = defaultdict(list)
    last_key = None
    for index, (name, key) in enumerate(zip(names, keys, strict=True)):
        if key is None:
            # A name like no other belongs to the sequence within which it is, as frame_10b after
            # frame_10, or else among those of no sequence.
            next_key = next(filter(None, keys[index:]), None)
            sequences[last_key if last_key == next_key else None].append(name)
        else:
            sequences[key].append(name)
            last_key = key
    return [
        ImageSequence(
            tuple(name.file for name in group), _read_counter(group, len(key[1])) if key else ()
        )
        for key, group in sequences.items()
    ]


def _find_counter(names: list[_ImageName]) -> int:
    """Returns the index of the number that counts: with those before it, all names differ."""
    different = len({name.numbers for name in names})
    indices = range(len(names[0].numbers))
    return next((i for i in indices if len({n.numbers[: i + 1] for n in names}) == different), 0)


def _read_counter(names: list[_ImageName], index: int) -> tuple[Fraction, ...]:
    numbers = [name.numbers[index] for name in names if len(name.numbers) > index]
    # Only the last part of a moment counts, and only if nothing else changes.
    return tuple(number[-1] for number in numbers) if len({n[:-1] for n in numbers}) == 1 else ()


def _span(first: Fraction, last: Fraction) -> str:
    """Returns the numbers from `first` to `last`, for people."""
    texts = [str(n) if n.denominator == 1 else f"{float(n):g}" for n in (first, last)]
    return texts[0] if last <= first else "-".join(texts)


def _abridge(items: Iterable[str]) -> str:
    """Returns the first five, and how many more there are."""
    items = list(items)
    shown = ", ".join(items[:5])
    return f"{shown} and {len(items) - 5} more" if len(items) > 5 else shown
