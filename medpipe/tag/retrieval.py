"""The terms nearest to a mention: cosine of TF-IDF vectors over character n-grams, exact and without a dense matrix.

The n-grams are those within a word with its borders (``<flu>``), so a word's are computed once, however many terms
have it. The index is inverted: for each n-gram the terms that have it and its weight in them; a search adds up those of
the query's n-grams, so its time grows with how common they are, and with the number of terms only for one array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

SIZES = (3, 4)  # characters of an n-gram, with the borders of the word
LEAST = 0.65  # terms with a lower cosine are not near: none of them would be probable enough
SLACK = 1e-4  # more than what sums of float32 are wrong by
DIGITS = 5  # of a cosine that count: sums of float32


@lru_cache(maxsize=1 << 17)
def word_grams(word: str) -> tuple[str, ...]:
    """Returns the different n-grams of a word with its borders; a short word is one itself."""
    framed = f"<{word}>"
    grams = [framed[at : at + size] for size in SIZES for at in range(len(framed) - size + 1)]
    return tuple(dict.fromkeys(grams or [framed]))


class TermIndex:
    """An inverted index over terms, each given as its normal words.

    A term's vector counts each n-gram as often as words of the term have it, weighs it with the logarithm of how rare
    it is among the terms, and has length one.
    """

    def __init__(self, terms: Sequence[tuple[str, ...]]) -> None:
        self.size = len(terms)
        words = {word: number for number, word in enumerate(dict.fromkeys(word for term in terms for word in term))}
        self.numbers: dict[str, int] = {}  # n-gram -> number
        grams_of = [[self.numbers.setdefault(gram, len(self.numbers)) for gram in word_grams(word)] for word in words]
        pairs = _merge(
            np.fromiter((len(term) for term in terms), np.int64, self.size),
            np.fromiter((words[word] for term in terms for word in term), np.int64),
            grams_of,
            len(self.numbers),
        )
        owner, gram, times = pairs
        count = len(self.numbers)
        frequency = np.bincount(gram, minlength=count)
        self.idf = np.log((1 + self.size) / (1 + frequency)) + 1  # shape: (n-grams,), float64
        self.unknown = float(np.log(1 + self.size) + 1)  # of an n-gram that no term has
        weight = times * self.idf[gram]
        length = np.sqrt(np.bincount(owner, weight**2, minlength=self.size))
        weight /= np.maximum(length, 1e-12)[owner]
        order = np.argsort(gram, kind="stable")
        # Which terms have an n-gram, and its weight in them: those of n-gram g are [start[g], start[g + 1]).
        self.owners, self.weights = owner[order].astype(np.int32), weight[order].astype(np.float32)
        self.start = np.concatenate([[0], np.cumsum(frequency)])

    def vector(self, query: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the n-grams of a query that any term has, the rarest first, and their weights.

        The weights are those of a vector of length one of which the n-grams that no term has are left out.
        """
        counts: dict[str, int] = {}
        for word in query:
            for gram in word_grams(word):
                counts[gram] = counts.get(gram, 0) + 1
        known = [(self.numbers[gram], times) for gram, times in counts.items() if gram in self.numbers]
        strange = sum(times**2 for gram, times in counts.items() if gram not in self.numbers) * self.unknown**2
        if not known:
            return np.zeros(0, np.int64), np.zeros(0)
        gram, times = np.array(known, dtype=np.int64).T
        order = np.lexsort((gram, -self.idf[gram]))
        gram, times = gram[order], times[order]
        weight = times * self.idf[gram]
        return gram, weight / np.sqrt(strange + (weight**2).sum())

    def search(self, query: tuple[str, ...], most: int, *, least: float = LEAST) -> tuple[np.ndarray, np.ndarray]:
        """Returns the terms nearest to a query, the nearest first, of equal ones that with the lower number.

        Args:
            query: normal words.
            most: how many terms at most.
            least: terms with a lower cosine are left out.

        Returns:
            Numbers of terms and their cosines. shape: (found,), int64 and float64.
        """
        grams, weights = self.vector(query)
        # What the n-grams from each place on can add to any cosine, by the inequality of Cauchy and Schwarz.
        rest = np.sqrt(np.cumsum((weights**2)[::-1])[::-1])
        check = int((rest >= least / 2).sum())  # most is known by then, and the common n-grams are still to come
        cosine = np.zeros(self.size, np.float32)
        for place, (gram, weight) in enumerate(zip(grams.tolist(), weights.tolist(), strict=True)):
            if place == check and float(cosine.max(initial=0)) + float(rest[place]) < least - SLACK:
                return np.zeros(0, np.int64), np.zeros(0)
            part = slice(self.start[gram], self.start[gram + 1])
            cosine[self.owners[part]] += self.weights[part] * np.float32(weight)  # a term has an n-gram once
        found = np.flatnonzero(cosine >= least)
        if len(found) > most:
            last = np.partition(cosine[found], len(found) - most)[len(found) - most]
            found = found[cosine[found] >= last - 2 * 10.0**-DIGITS]  # with all that are equal to the last
        rounded = cosine[found].astype(np.float64).round(DIGITS)
        order = np.lexsort((found, -rounded))[:most]
        return found[order], rounded[order]


def _merge(
    lengths: np.ndarray, words: np.ndarray, grams_of: Iterable[Sequence[int]], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns each pair of a term and an n-gram of it once, sorted, and how many words of the term have the n-gram.

    Args:
        lengths: words of each term. shape: (terms,)
        words: of all terms, one term behind the other. shape: (words,)
        grams_of: the n-grams of each different word.
        count: different n-grams.
    """
    table = [np.asarray(grams, np.int64) for grams in grams_of]
    sizes = np.fromiter((len(grams) for grams in table), np.int64, len(table))
    flat = np.concatenate([np.zeros(0, np.int64), *table])
    begins = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(lengths)), lengths)  # of each word
    per_word = sizes[words]
    ends = np.cumsum(per_word)
    total = int(ends[-1]) if len(ends) else 0
    places = np.arange(total) + np.repeat(begins[words] - (ends - per_word), per_word)
    keys = np.repeat(owner, per_word) * count + flat[places]
    keys.sort(kind="stable")
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if total else np.zeros(0, np.int64)
    times = np.diff(np.concatenate([first, [total]]))
    unique = keys[first]
    return unique // max(count, 1), unique % max(count, 1), times
