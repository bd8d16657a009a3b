r"""Words for a set of samples: which phrases of a vocabulary fit it better than the other samples.

The score of a phrase for a set S among samples A, from cosines c of features and phrase, is the
standardised difference

.. math:: \frac{\mathrm{mean}_S(c) - \mathrm{mean}_{A \setminus S}(c)}{\mathrm{std}_A(c)},

in standard deviations, since the level of cosines differs from phrase to phrase: a phrase that fits
everything names nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.features.text_sides import tidy
from gsr_core.phrases.embed import embed_phrases
from gsr_core.phrases.search import similarities
from gsr_core.workspace import Workspace

__all__ = [
    "name_sets",
    "phrase_similarities",
    "phrases_of",
    "read_vocabulary",
    "sets_without_words",
]

_MOST = 20_000
"""Phrases of a vocabulary; more would take long and say little."""
_MOST_SCANNED = 500
"""Phrases that are held against the classes: each is a test, and pays for all the others."""


def read_vocabulary(file: Path | None = None) -> list[str]:
    """Return the phrases of a vocabulary, each once.

    Args:
        file: Text in UTF-8, one phrase a line; empty lines and those that begin with # do not
            count. None reads the built-in list of common objects, scenes and textures.

    Raises:
        SettingError: If the file cannot be read, has no phrase or too many.

    Example:
        >>> "snow" in read_vocabulary(), "# scenes" in read_vocabulary()
        (True, False)
    """
    try:
        text = (
            resources.files("gsr_core.phrases").joinpath("words.txt").read_text("utf-8")
            if file is None
            else file.read_text("utf-8")
        )
    except FileNotFoundError as error:
        raise SettingError(f"there is no file {file}; give one with one phrase a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"{file} cannot be read as text ({type(error).__name__}); give a file in UTF-8 with "
            "one phrase a line"
        ) from error
    return phrases_of(text, str(file))


def phrases_of(text: str, what: str) -> list[str]:
    """Return the phrases of a text, one a line, each once.

    Args:
        text: As `read_vocabulary` reads it.
        what: What it is, for the sentence about a mistake.

    Raises:
        SettingError: If it has no phrase or too many.
    """
    lines = (line.strip() for line in text.splitlines())
    phrases = list(dict.fromkeys(tidy(line) for line in lines if line and line[0] != "#"))
    if not 0 < len(phrases) <= _MOST:
        raise SettingError(
            f"{what} has {len(phrases):,} phrases; give 1 to {_MOST:,}, one a line, without # "
            "before them"
        )
    return phrases


def name_sets(
    workspace: Workspace,
    bundle: Bundle,
    sets: Mapping[str, np.ndarray],
    *,
    among: np.ndarray | None = None,
    vocabulary: Sequence[str] | None = None,
    most: int = 5,
) -> pd.DataFrame:
    """Return the phrases that fit each of some sets of samples best, beside the other samples.

    Args:
        workspace: Where embeddings are kept.
        bundle: The data; its network takes phrases.
        sets: Positions in the bundle of the samples of each set, by its name.
        among: (q,) positions of all samples that are looked at; all of the bundle if None. Those of
            a set that are not among them do not count.
        vocabulary: The phrases; the built-in list if None.
        most: Phrases of each set.

    Returns:
        Columns `set`, `samples`, `phrase` and `score` (standard deviations; above 0 where it fits
        the set better than the others), the best first within a set. A set that has no sample
        among them, or all, has no row; `sets_without_words` says which these are.

    Raises:
        SettingError: If a phrase is too long, or the bundle's network takes no phrases.
        CheckpointError: If the weights of the network are gone or are others now.
        MissingExtraError: If its library is not installed.
    """
    phrases = read_vocabulary() if vocabulary is None else list(vocabulary)
    rows = np.arange(len(bundle)) if among is None else np.asarray(among)
    without = sets_without_words(bundle, sets, rows)
    cosines = similarities(bundle, embed_phrases(workspace, bundle, phrases), rows)
    spread = cosines.std(axis=0, dtype=np.float64)
    spread[spread == 0] = np.inf
    found = []
    for name, members in sets.items():
        if name in without:
            continue
        inside = np.isin(rows, members)
        means = [cosines[part].mean(axis=0, dtype=np.float64) for part in (inside, ~inside)]
        score = (means[0] - means[1]) / spread
        best = np.argsort(-score, kind="stable")[:most]
        found.append(
            pd.DataFrame(
                {
                    "set": name,
                    "samples": int(inside.sum()),
                    "phrase": np.array(phrases, dtype=object)[best],
                    "score": score[best],
                }
            )
        )
    columns = ["set", "samples", "phrase", "score"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def sets_without_words(
    bundle: Bundle, sets: Mapping[str, np.ndarray], among: np.ndarray | None = None
) -> dict[str, str]:
    """Return which sets `name_sets` cannot name, and why.

    Args:
        bundle: The data.
        sets: Positions in the bundle of the samples of each set, by its name.
        among: (q,) positions of all samples that are looked at; all of the bundle if None.

    Returns:
        By the name of a set, half a sentence.
    """
    rows = np.arange(len(bundle)) if among is None else np.asarray(among)
    found = {}
    for name, members in sets.items():
        inside = int(np.isin(rows, members).sum())
        if inside == 0:
            found[name] = f"none of the {len(rows):,} samples looked at is in it"
        elif inside == len(rows):
            found[name] = (
                f"all {len(rows):,} samples looked at are in it, so that there are no others to "
                "compare with"
            )
    return found


def phrase_similarities(
    workspace: Workspace, bundle: Bundle, vocabulary: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return how near each sample is to each phrase of a vocabulary, as a scan looks at it.

    Args:
        workspace: Where embeddings are kept.
        bundle: The data; its network takes phrases.
        vocabulary: At most 500 phrases; the built-in list if None. Names of classes are left out.

    Returns:
        n rows, a float32 column of cosines for each phrase.

    Raises:
        SettingError: If there are too many phrases, none but names of classes, one is too long, or
            the bundle's network takes no phrases.
        CheckpointError: If the weights of the network are gone or are others now.
        MissingExtraError: If its library is not installed.
    """
    every = read_vocabulary() if vocabulary is None else vocabulary
    classes = {name.casefold() for name in bundle.manifest.classes}
    phrases = [each for each in dict.fromkeys(map(tidy, every)) if each.casefold() not in classes]
    if not 0 < len(phrases) <= _MOST_SCANNED:
        raise SettingError(
            f"the vocabulary has {len(phrases):,} phrases that are no names of classes; a scan "
            f"takes 1 to {_MOST_SCANNED}"
        )
    return pd.DataFrame(
        similarities(bundle, embed_phrases(workspace, bundle, phrases)), columns=phrases
    )
