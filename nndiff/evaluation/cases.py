"""Collect the files of each case to evaluate from the folders, by name. No image is opened.

    GT/CASE_0000      PRED/CASE_0000      PRED/samples/CASE_sampleK_0000      PRED/uncertainty/CASE_0000
    INPUT/CASE_0000   MASKS/CASE          REGIONS/CASE                        each with any ending that nndiff reads

A case with a missing file becomes a failure that names the file; the other cases are evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nndiff.resources.outcomes import Failure
from nndiff.words.dataset import CHANNEL, FILE_ENDINGS
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART

SAMPLE = re.compile(r"^(?P<case>.+)_sample(?P<sample>\d+)_(?P<channel>\d{4})$")
Channels = dict[str, dict[int, Path]]  # case → channel → file


@dataclass(frozen=True)
class Case:
    name: str
    truth: tuple[Path, ...]  # one file per channel, as in the next three fields
    prediction: tuple[Path, ...]
    samples: tuple[tuple[Path, ...], ...]
    uncertainty: tuple[Path | None, ...]
    source: Path | None
    mask: Path | None
    regions: Path | None


@dataclass(frozen=True)
class Folders:
    """The files of every folder by the name of their case; None for a folder that was not given."""

    paths: dict[str, str | None]
    truth: Channels
    prediction: Channels
    source: Channels | None
    masks: dict[str, Path] | None
    regions: dict[str, Path] | None
    samples: dict[str, dict[int, dict[int, Path]]]  # case → channel → sample → file
    uncertainty: Channels
    strangers: tuple[Path, ...]  # images without a channel number in their names

    @classmethod
    def read(
        cls, truth: Path, prediction: Path, source: Path | None, masks: Path | None, regions: Path | None
    ) -> Folders:
        named = {"truth": truth, "prediction": prediction, "input": source, "masks": masks, "regions": regions}
        images = {side: images_of(folder, side) for side, folder in named.items() if folder is not None}
        extra = {side: images_of(prediction / side, side, optional=True) for side in ("samples", "uncertainty")}
        strangers = [path for side in ("truth", "prediction") for path in _nameless(images[side])]
        return cls(
            paths={side: None if folder is None else str(folder) for side, folder in named.items()},
            truth=channels_of(images["truth"]),
            prediction=channels_of(images["prediction"]),
            source=channels_of(images["input"]) if source is not None else None,
            masks=images.get("masks"),
            regions=images.get("regions"),
            samples=_samples(extra["samples"]),
            uncertainty=channels_of(extra["uncertainty"]),
            strangers=tuple(strangers),
        )

    def cases(self, input_channel: int) -> tuple[list[Case], list[Failure]]:
        """Return the complete cases, and a failure for every other case."""
        cases = []
        failures = [
            _failure(path.name, "The file name has no channel number. Rename it to CASE_0000.")
            for path in self.strangers
        ]
        for name in sorted(self.truth.keys() | self.prediction.keys()):
            try:
                cases.append(self._case(name, input_channel))
            except NndiffError as error:
                failures.append(_failure(name, str(error)))
        if not cases and not failures:
            raise NndiffError(
                "The two folders contain no volume to evaluate.",
                expected=f"files CASE_0000 with an ending of {' '.join(FILE_ENDINGS)}",
                found="no such file",
                where=f"{self.paths['truth']} and {self.paths['prediction']}",
                remedy="pass the folder of the true volumes first and that of the predictions second",
            )
        return cases, failures

    def _case(self, name: str, input_channel: int) -> Case:
        truth, prediction = self.truth.get(name, {}), self.prediction.get(name, {})
        channels = sorted(truth.keys() | prediction.keys())
        for files, side, other in ((truth, "truth", "prediction"), (prediction, "prediction", "truth")):
            missing = [f"{name}_{channel:04d}" for channel in channels if channel not in files]
            if missing:
                raise NndiffError(
                    f"The {other} has no matching {side}.",
                    expected=", ".join(missing),
                    where=self.paths[side],
                    remedy=f"add the {side}, or remove the {other}",
                )
        if channels != list(range(len(channels))):
            found = ", ".join(f"{channel:04d}" for channel in channels)
            raise NndiffError(
                "Channels must be numbered from 0000 without gaps.",
                found=found,
                remedy="rename files, or add missing ones",
            )
        samples = self.samples.get(name, {})
        return Case(
            name=name,
            truth=tuple(truth[channel] for channel in channels),
            prediction=tuple(prediction[channel] for channel in channels),
            samples=tuple(_gapless(samples.get(channel, {}), name) for channel in channels),
            uncertainty=tuple(self.uncertainty.get(name, {}).get(channel) for channel in channels),
            source=None if self.source is None else self._source(name, input_channel),
            mask=self._partner(self.masks, name, "masks", "a mask"),
            regions=self._partner(self.regions, name, "regions", "a label map (all 0 where there is no region)"),
        )

    def _source(self, name: str, channel: int) -> Path:
        files = (self.source or {}).get(name, {})
        if channel not in files:
            raise NndiffError(
                f"The case has no input channel {channel}.",
                expected=f"{name}_{channel:04d}",
                where=self.paths["input"],
                remedy="add the file, or choose another channel with --input_channel",
            )
        return files[channel]

    def _partner(self, files: Mapping[str, Path] | None, name: str, side: str, what: str) -> Path | None:
        if files is not None and name not in files:
            raise NndiffError(
                f"The folder of {side} has no file for this case.",
                expected=f"{name} with one of {' '.join(FILE_ENDINGS)}",
                where=self.paths[side],
                remedy=f"add {what}",
            )
        return None if files is None else files[name]


def images_of(folder: Path, side: str, optional: bool = False) -> dict[str, Path]:
    """Return the images of a folder: name without the ending → file; refuse two files with one name."""
    if not folder.is_dir():
        if optional:
            return {}
        raise NndiffError(f"The folder of the {side} does not exist.", where=folder, remedy="check the path")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in FILE_ENDINGS if path.name.endswith(ending)), None)
        if ending is None or path.name.startswith((".", PART)):
            continue
        stem = path.name.removesuffix(ending)
        if stem in images:
            raise NndiffError(
                f"There are two files named {stem}.",
                found=f"{images[stem].name} and {path.name}",
                where=folder,
                remedy="remove one of them",
            )
        images[stem] = path
    return images


def channels_of(images: Mapping[str, Path]) -> Channels:
    channels: Channels = {}
    for stem, path in images.items():
        if match := CHANNEL.match(stem):
            channels.setdefault(match["case"], {})[int(match["channel"])] = path
    return channels


def _nameless(images: Mapping[str, Path]) -> list[Path]:
    return [path for stem, path in images.items() if not CHANNEL.match(stem)]


def _samples(images: Mapping[str, Path]) -> dict[str, dict[int, dict[int, Path]]]:
    samples: dict[str, dict[int, dict[int, Path]]] = {}
    for stem, path in images.items():
        if match := SAMPLE.match(stem):
            channels = samples.setdefault(match["case"], {})
            channels.setdefault(int(match["channel"]), {})[int(match["sample"])] = path
    return samples


def _gapless(samples: Mapping[int, Path], name: str) -> tuple[Path, ...]:
    missing = [number for number in range(max(samples, default=-1)) if number not in samples]
    if missing:
        raise NndiffError(
            "A sample of the case is missing.",
            expected=f"samples 0 to {max(samples)}",
            found=f"no {name}_sample{missing[0]}",
            where=next(iter(samples.values())).parent,
            remedy="predict the case again",
        )
    return tuple(samples[number] for number in sorted(samples))


def _failure(case: str, message: str) -> Failure:
    return Failure(case, message, "", True)
