"""Words as hashes of what they look like: no vocabulary, so no word is unknown.

A word has two bags of features, both hashed into one embedding table (the hashing trick, Weinberger et al. 2009;
character n-grams with word borders as in fastText, Bojanowski et al. 2017): the whole word (lower-cased, twice,
with different seeds, so that two words rarely share both rows; its shape; its first and last three letters) and
its character n-grams. The features of a word are computed once and kept; a text is then a row of numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from zlib import crc32

import numpy as np

WHOLE = 5  # features of the whole word
GRAMS = 32  # character n-grams, at most
GRAM_SIZES = (3, 5)
PADDING = 0  # the row of the embedding table that stays zero
LONGEST = 40  # of a longer word, the middle is left out

REPEATS = re.compile(r"(.)\1{2,}")


def word_shape(word: str) -> str:
    """Returns how the word is written: ``Xx``, ``X``, ``x``, ``xX``, ``dd``; runs longer than two are cut to two."""
    letters = "".join(
        "d" if char.isdigit() else "X" if char.isupper() else "x" if char.isalpha() else char for char in word[:LONGEST]
    )
    return REPEATS.sub(r"\1\1", letters)


def word_features(word: str, buckets: int) -> list[int]:
    """Returns the word's ``WHOLE + GRAMS`` rows of an embedding table of ``buckets`` rows, padded with ``PADDING``."""
    lower = word.lower()
    if len(lower) > LONGEST:
        lower = lower[: LONGEST // 2] + lower[-LONGEST // 2 :]
    whole = [f"w{lower}", f"v{lower}", f"s{word_shape(word)}", f"p{lower[:3]}", f"e{lower[-3:]}"]
    framed = f"<{lower}>"
    grams = [framed[at : at + size] for size in GRAM_SIZES for at in range(len(framed) - size + 1)]
    if len(grams) > GRAMS:  # keep both ends: endings tell a drug or a disease
        grams = grams[: GRAMS // 2] + grams[-GRAMS // 2 :]
    hashes = [1 + crc32(feature.encode("utf-8", "surrogatepass")) % (buckets - 1) for feature in (*whole, *grams)]
    return hashes + [PADDING] * (WHOLE + GRAMS - len(hashes))


class WordTable:
    """Numbers words in the order in which they are first met, and keeps their features.

    Memory grows with the number of different words; ``clear`` forgets them.
    """

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self.clear()

    def clear(self) -> None:
        """Forgets all words."""
        self._numbers: dict[str, int] = {}
        self._features = np.zeros((1024, WHOLE + GRAMS), dtype=np.int32)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def words(self) -> list[str]:
        """All words so far, by number."""
        return list(self._numbers)

    @property
    def features(self) -> np.ndarray:
        """The features of all words so far. shape: (words, WHOLE + GRAMS), int32."""
        return self._features[: len(self)]

    def look_up(self, words: Sequence[str]) -> np.ndarray:
        """Returns the numbers of ``words``; new words get the next numbers.

        Returns:
            shape: (len(words),), int32.
        """
        numbers = self._numbers
        # The order of the text, not of a set: the numbers must be the same in every process.
        for word in dict.fromkeys(words):
            if word not in numbers:
                number = len(numbers)
                if number == len(self._features):
                    self._features = np.concatenate([self._features, np.zeros_like(self._features)])
                self._features[number] = word_features(word, self.buckets)
                numbers[word] = number
        return np.fromiter(map(numbers.__getitem__, words), dtype=np.int32, count=len(words))
