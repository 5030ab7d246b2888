"""Codes: which concept of a terminology a mention of a disease, a symptom or a drug stands for, and how sure that is.

A mention is read as a person would read it aside from its sentence: abbreviations that the note defines are expanded
(``abbreviations``), the words are brought into one spelling (``terms``). Where a term has the same words, its codes are
the candidates; else the terms nearest by character n-grams (``retrieval``) are. A conditional logit (McFadden 1974)
over the candidates *and the answer "none of them"* gives each a probability; the best code is given where its
probability reaches the threshold that was chosen for a precision of at least 0.8 on held-out documents, and null else.

It cannot tell two meanings apart that have the same words ("cold"), nor split a mention that names two concepts, nor
know an abbreviation that neither the note nor the terminology spells out. ICD-10-CM classifies: a mention that says no
more than the category gets the category.

The weights are data: ``codes.json`` beside this module, made by ``medpipe.learn.codes``.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from medpipe.errors import MedpipeError
from medpipe.ids import hash_file, make_id
from medpipe.tag import terminology
from medpipe.tag.abbreviations import COMMON_FILE, PARENTHESIS, expand_mentions
from medpipe.tag.retrieval import TermIndex, word_grams
from medpipe.tag.terminology import CODED, Terms
from medpipe.tag.terms import make_key, normal_words

WEIGHTS_FILE = Path(__file__).parent / "codes.json"
KEPT = 200_000  # mentions whose codes are remembered; when there are more, all are forgotten
NEAREST = 24  # terms that are retrieved
CANDIDATES = 6  # different codes among them that are compared
SLIP = 0.5  # words at least so alike are one word, spelled or bent in two ways
LONGEST = 200  # characters of a mention; longer ones are no terms
LONGEST_WORDS = 16

EXACT_FEATURES = ("bias", "log_share", "as_written", "one_word", "short", "capitals", "expanded")
NEAR_FEATURES = (
    "bias", "cosine", "margin", "covered", "alike", "term_alike", "worst", "term_worst", "length_ratio", "same_head",
    "numbers_differ", "left_over", "term_left_over", "log_share", "one_word", "capitals", "expanded", "drug",
)  # fmt: skip

# Words of which a term must not have one where the mention has another of the same row.
OPPOSITES = (
    ("acute", "chronic", "subacute"), ("left", "right", "bilateral"), ("benign", "malignant"),
    ("primary", "secondary"), ("upper", "lower"), ("systolic", "diastolic"), ("with", "without"),
    ("congenital", "acquired"), ("male", "female"), ("dominant", "recessive"), ("maternal", "paternal"),
    ("anterior", "posterior"), ("dependent", "independent"), ("juvenile", "adult"), ("bacterial", "viral"),
)  # fmt: skip
SIDE = {word: (row, place) for row, words in enumerate(OPPOSITES) for place, word in enumerate(words)}
# Words of a mention that do not change which concept it is.
MODIFIERS = frozenset({
    "severe", "mild", "moderate", "slight", "marked", "significant", "worsening", "progressive", "persistent",
    "intermittent", "occasional", "recurrent", "new", "onset", "known", "possible", "probable", "suspected", "clinical",
    "symptomatic", "episode", "event", "symptom", "sign", "induced", "related", "associated", "patient", "human",
    "disease", "disorder", "syndrome", "condition", "problem",
})  # fmt: skip
# Words after which the head of a term does not come any more: "carcinoma of the breast".
BREAKS = frozenset({"of", "in", "due", "with", "without", "from", "by", "to", "on", "after", "during", "following"})
PREFIXES = (("hyper", "hypo"), ("tachy", "brady"), ("poly", "oligo"), ("macro", "micro"), ("intra", "extra"))


@dataclass(frozen=True, slots=True)
class Code:
    """A code and the probability that it is right."""

    system: str
    code: str
    score: float


@dataclass(frozen=True, slots=True)
class Mention:
    """A mention as it is looked up: its text with abbreviations expanded."""

    text: str
    words: tuple[str, ...]
    expanded: bool  # an abbreviation was
    capitals: bool  # one word with more capitals than one: an abbreviation that nobody explains


def make_mention(text: str, *, written: str | None = None) -> Mention | None:
    """Returns a mention to look up; None where it cannot be a term.

    Args:
        text: the mention, abbreviations expanded.
        written: as the note has it, if that is something else.
    """
    if len(text) > LONGEST:
        return None
    plain = PARENTHESIS.sub(" ", text)  # "chronic kidney disease (CKD)"
    words = normal_words(plain) or normal_words(text)
    if not words or len(words) > LONGEST_WORDS or not any(word.isalpha() for word in words):
        return None
    capitals = len(text.split()) == 1 and sum(char.isupper() for char in text) > 1 and len(text) <= 8
    return Mention(text, words, written is not None and written != text, capitals)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a mention may stand for: codes of a list, the features of each, and whether they match in all words."""

    codes: np.ndarray  # shape: (candidates,), int64: places in the list's ``codes``
    features: np.ndarray  # shape: (candidates, EXACT_FEATURES or NEAR_FEATURES)
    exact: bool


class CodeList:
    """The terms of one label, ready to be searched. The index for the search is built when it is first needed."""

    def __init__(self, terms: Terms, rows: Sequence[int], *, drugs: bool = False) -> None:
        self.drugs = drugs
        self.names = [terms.term[row] for row in rows]
        self.words = [terms.words[row] for row in rows]
        numbers: dict[tuple[str, str], int] = {}
        self.code_of = [numbers.setdefault((terms.system[row], terms.code[row]), len(numbers)) for row in rows]
        self.codes = list(numbers)  # (system, code)
        self.keys: dict[str, dict[int, float]] = {}  # key -> code -> weight of the rows that call it so
        self.first: dict[str, int] = {}  # key -> the first term with it
        self.joined: dict[str, str] = {}  # words without the gaps -> key: "thrombo-embolism"
        for place, row in enumerate(rows):
            key = make_key(self.words[place])
            if key:
                weights = self.keys.setdefault(key, {})
                weights[self.code_of[place]] = weights.get(self.code_of[place], 0.0) + terms.weight[row]
                self.first.setdefault(key, place)
                self.joined.setdefault("".join(self.words[place]), key)
        self._index: TermIndex | None = None
        self._rarity: dict[str, float] = {}

    @property
    def index(self) -> TermIndex:
        """The index over the terms."""
        if self._index is None:
            self._index = TermIndex(self.words)
            counts: dict[str, int] = {}
            for words in self.words:
                for word in set(words):
                    counts[word] = counts.get(word, 0) + 1
            self._rarity = {
                word: float(np.log((1 + len(self.words)) / (1 + count)) + 1) for word, count in counts.items()
            }
        return self._index

    def rarity(self, words: set[str]) -> float:
        """Returns how much the words say: the sum of the logarithms of how rare they are."""
        unknown = float(np.log(1 + len(self.words)) + 1)
        return sum(self._rarity.get(word, unknown) for word in sorted(words))

    def share(self, key: str, code: int) -> float:
        """Returns which share of the rows with a key a code has."""
        weights = self.keys[key]
        return weights[code] / sum(weights.values())

    def find(self, mention: Mention) -> Candidates | None:
        """Returns the candidates of a mention; None where there are none."""
        key = make_key(mention.words)
        if key not in self.keys:
            key = self.joined.get("".join(mention.words), key)
        return self._exact(mention, key) if key in self.keys else self.find_near(mention)

    def _exact(self, mention: Mention, key: str) -> Candidates:
        weights = self.keys[key]
        total = sum(weights.values())
        codes = sorted(weights, key=lambda code: (-weights[code], self.codes[code]))[:CANDIDATES]
        length = len(mention.text)
        about = [
            float("".join(self.words[self.first[key]]) == "".join(mention.words)), float(len(mention.words) == 1),
            float(length <= 4), float(mention.capitals), float(mention.expanded),
        ]  # fmt: skip
        features = [[1.0, float(np.log(weights[code] / total)), *about] for code in codes]
        return Candidates(np.array(codes), np.array(features), True)

    def find_near(self, mention: Mention, *, hidden: Container[str] = ()) -> Candidates | None:
        """Returns the candidates of a mention among the terms that do not have all its words.

        Args:
            mention: what is looked up.
            hidden: codes whose terms are passed over (for training).
        """
        found, cosines = self.index.search(mention.words, 4 * NEAREST if hidden else NEAREST)
        best: dict[int, tuple[int, float]] = {}  # code -> its nearest term
        words = set(mention.words)
        for term, cosine in zip(found.tolist(), cosines.tolist(), strict=True):
            others = set(self.words[term])
            code = self.code_of[term]
            if code in best or others == words or contradict(words, others) or self.codes[code][1] in hidden:
                continue
            best[code] = term, cosine
        if not best:
            return None
        ranked = sorted(best.items(), key=lambda item: (-round(item[1][1], 6), self.codes[item[0]]))[:CANDIDATES]
        top = [cosine for _, (_, cosine) in ranked[:2]] + [0.0]
        features = []
        for place, (code, (term, cosine)) in enumerate(ranked):
            margin = cosine - top[1] if place == 0 else cosine - top[0]
            features.append(self._compare(mention, code, term, cosine, margin))
        return Candidates(np.array([code for code, _ in ranked]), np.array(features), False)

    def _compare(self, mention: Mention, code: int, term: int, cosine: float, margin: float) -> list[float]:
        """Returns the NEAR_FEATURES of a mention and a term."""
        words, others = set(mention.words), set(self.words[term])
        shared, ours, theirs = words & others, words - others, others - words
        known, mine = self.rarity(shared), self.rarity(ours)
        query, name = "".join(mention.words), "".join(self.words[term])
        alike, worst = self._alike(ours, others, words)
        term_alike, term_worst = self._alike(theirs, words, others)
        return [
            1.0, cosine, margin, known / (known + mine), alike, term_alike, worst, term_worst,
            min(len(query), len(name)) / max(len(query), len(name)),
            float(head_word(mention.text, mention.words) == head_word(self.names[term], self.words[term])),
            float(numbers_of(words) != numbers_of(others)),
            float(self._left_over(ours, others)), float(self._left_over(theirs, words)),
            float(np.log(self.share(make_key(self.words[term]), code))),
            float(len(mention.words) == 1), float(mention.capitals), float(mention.expanded), float(self.drugs),
        ]  # fmt: skip

    def _left_over(self, missing: set[str], others: set[str]) -> int:
        """Returns how many words say something that ``others`` do not say: modifiers and slips of spelling do not."""
        return sum(word not in MODIFIERS and likeness(word, others) < SLIP for word in missing)

    def _alike(self, missing: set[str], others: set[str], words: set[str]) -> tuple[float, float]:
        """Returns how well ``others`` stand for the words that they lack.

        Returns:
            The mean, over all ``words``, of how alike the most similar of ``others`` is, and what the worst of them
            lacks; words count by how rare they are.
        """
        total = self.rarity(words)
        lost = [self.rarity({word}) * (1 - likeness(word, others)) / total for word in sorted(missing)]
        return 1 - sum(lost), max(lost, default=0.0)


@lru_cache(maxsize=1)
def load_icd10cm(path: Path) -> CodeList:
    """Returns the terms of a tabular list; a process reads it once."""
    terms = Terms()
    terminology.read_icd10cm(path, terms)
    return CodeList(terms, range(len(terms)))


def make_lists(terms: Terms) -> dict[str, CodeList]:
    """Returns the terms for the mentions of each label; labels with the same terms share a list, but for drugs."""
    lists: dict[str, CodeList] = {}
    same: dict[tuple[bool, tuple[int, ...]], CodeList] = {}
    for label in CODED:
        rows = tuple(row for row, labels in enumerate(terms.labels) if label in labels)
        key = label == "DRUG", rows
        if rows and key not in same:
            same[key] = CodeList(terms, rows, drugs=key[0])
        if rows:
            lists[label] = same[key]
    return lists


def head_word(text: str, words: tuple[str, ...]) -> str:
    """Returns what kind of thing a term is: its last word, or the last before "of" and its like or a comma."""
    before: list[str] = []
    for word in text.lower().split():
        if word in BREAKS and before:
            break
        before.append(word)
        if word.endswith(","):
            break
    return (normal_words(" ".join(before)) or words)[-1]


def numbers_of(words: set[str]) -> set[str]:
    """Returns the words that number a thing: digits and single letters, as in "type 2" and "hepatitis B"."""
    return {word for word in words if len(word) == 1 or not word.isalpha()}


def contradict(words: set[str], others: set[str]) -> bool:
    """Returns whether two terms cannot be one concept: both have numbers, and others, or words that exclude each other.

    Those are acute and chronic, type 1 and type 2, hyper- and hypo-, with and without.
    """
    ours, theirs = words - others, others - words
    if numbers_of(ours) and numbers_of(theirs):
        return True
    rows = {SIDE[word][0]: SIDE[word][1] for word in sorted(ours) if word in SIDE}
    if any(word in SIDE and rows.get(SIDE[word][0], SIDE[word][1]) != SIDE[word][1] for word in theirs):
        return True
    if bool(ours & NEGATIONS) != bool(theirs & NEGATIONS):
        return True
    return any(
        {first + word[len(second) :], second + word[len(first) :]} & theirs
        for one, other in PREFIXES
        for first, second in ((one, other), (other, one))
        for word in ours
        if word.startswith((first, second))
    )


NEGATIONS = frozenset({"no", "non", "not", "without", "absence", "absent"})


def likeness(word: str, others: set[str]) -> float:
    """Returns how alike a word is to the most similar of some: the Dice coefficient of their n-grams, at most 1."""
    grams = set(word_grams(word))
    return max(
        (2 * len(grams & found) / (len(grams) + len(found)) for other in others if (found := set(word_grams(other)))),
        default=0.0,
    )


# --- the reranker ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reranker:
    """Weights of the features, of a match in all words and of a near one, and the threshold."""

    exact: np.ndarray  # shape: (EXACT_FEATURES,)
    near: np.ndarray  # shape: (NEAR_FEATURES,)
    threshold: float

    def probabilities(self, candidates: Candidates) -> np.ndarray:
        """Returns the probability of each candidate; what they lack to 1 is that of "none of them"."""
        weights = self.exact if candidates.exact else self.near
        # Summed one by one: no order of additions that depends on the machine's matrix library.
        logits = np.array([sum((row * weights).tolist()) for row in candidates.features])
        top = max(0.0, float(logits.max()))
        odds = np.exp(logits - top)
        return odds / (np.exp(-top) + odds.sum())

    @classmethod
    def load(cls, path: Path = WEIGHTS_FILE) -> Reranker:
        """Reads the weights.

        Raises:
            MedpipeError: MODEL_INVALID.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            exact = np.array([float(raw["exact"][name]) for name in EXACT_FEATURES])
            near = np.array([float(raw["near"][name]) for name in NEAR_FEATURES])
            return cls(exact, near, float(raw["threshold"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MedpipeError("MODEL_INVALID", path=path, reason=type(error).__name__) from error


def look_up(
    codes: CodeList, reranker: Reranker, text: str, written: str | None = None
) -> tuple[Candidates, np.ndarray] | None:
    """Returns the candidates of a mention and their probabilities. shape of the latter: (candidates,)

    What an abbreviation stands for in the note comes first; where nothing is called so with enough probability, the
    terminology may know the abbreviation itself.

    Args:
        codes: the terms for the mention's label.
        reranker: the weights.
        text: the mention, abbreviations expanded.
        written: as the note has it, if that is something else.
    """
    best = None
    for reading in (text, written):
        mention = make_mention(reading, written=written) if reading is not None else None
        found = codes.find(mention) if mention is not None else None
        if found is None or (best is not None and not found.exact):
            continue
        scores = reranker.probabilities(found).round(4)
        if best is None or scores.max() >= reranker.threshold:
            best = found, scores
        if scores.max() >= reranker.threshold:
            break
    return best


# --- mentions in, codes out -----------------------------------------------------------------


class Coder:
    """Gives codes to mentions. The same mention gets the same code, whatever it is asked with.

    A site's files serve the labels that their rows name; ICD-10-CM, if it is installed, serves diseases and symptoms
    where no file does. ICD-10-CM is read when the first such mention comes.
    """

    def __init__(self, terms: Terms, reranker: Reranker, *, icd10cm: Path | None = None) -> None:
        self.reranker = reranker
        self.lists = make_lists(terms)
        self.icd10cm = icd10cm
        self.waiting = [label for label in terminology.ICD_LABELS if icd10cm and label not in self.lists]
        self.known: dict[tuple[str, str, str | None], Code | None] = {}

    @classmethod
    def load(cls, paths: Sequence[Path] = (), *, icd10cm: Path | None = None) -> Coder:
        """Reads the files of a site.

        Args:
            paths: terminology files.
            icd10cm: the tabular list; ``terminology.find_icd10cm()`` finds it.

        Raises:
            MedpipeError: INPUT_NOT_FOUND, INPUT_UNREADABLE, TERMINOLOGY_INVALID, MODEL_INVALID.
        """
        terms = Terms()
        for path in paths:
            terminology.read_terminology(path, terms)
        return cls(terms, Reranker.load(), icd10cm=icd10cm)

    def serves(self, label: str) -> bool:
        """Returns whether there are terms for mentions of a label."""
        return label in self.lists or label in self.waiting

    def list_of(self, label: str) -> CodeList | None:
        """Returns the terms for mentions of a label; None where there are none."""
        if label in self.waiting and self.icd10cm is not None:
            self.lists |= dict.fromkeys(self.waiting, load_icd10cm(self.icd10cm))
            self.waiting = []
        return self.lists.get(label)

    def rank(self, text: str, label: str, *, written: str | None = None) -> list[Code]:
        """Returns the candidates of a mention with their probabilities, the most probable first; see ``code``."""
        codes = self.list_of(label)
        found = look_up(codes, self.reranker, text, written) if codes is not None else None
        if codes is None or found is None:
            return []
        candidates, scores = found
        # Candidates come in an order of their own, which stays among equal ones.
        ranked = sorted(zip(candidates.codes.tolist(), scores.tolist(), strict=True), key=lambda item: -item[1])
        return [Code(codes.codes[code][0], codes.codes[code][1], score) for code, score in ranked]

    def code(self, text: str, label: str, *, written: str | None = None) -> Code | None:
        """Returns the code of a mention, or None where no code is probable enough.

        Args:
            text: the mention, abbreviations expanded.
            label: of the mention.
            written: as the note has it, if that is something else.
        """
        key = text, label, written
        if key not in self.known:
            if len(self.known) >= KEPT:
                self.known.clear()
            ranked = self.rank(text, label, written=written)
            self.known[key] = ranked[0] if ranked and ranked[0].score >= self.reranker.threshold else None
        return self.known[key]

    def code_text(
        self, text: str, mentions: Sequence[str], starts: Sequence[int], labels: Sequence[str]
    ) -> list[Code | None]:
        """Returns the code of each mention of a text.

        Args:
            text: the note, for the abbreviations that it defines.
            mentions: as written.
            starts: their offsets.
            labels: of the mentions; those that are not CODED get None.
        """
        wanted = [place for place, label in enumerate(labels) if self.serves(label) and len(mentions[place]) <= LONGEST]
        full = expand_mentions(text, [mentions[at] for at in wanted], [starts[at] for at in wanted])
        found: list[Code | None] = [None] * len(mentions)
        for place, expanded in zip(wanted, full, strict=True):
            written = mentions[place]
            found[place] = self.code(expanded, labels[place], written=None if written == expanded else written)
        return found


@cache
def _hash_data() -> str:
    return make_id("codes", *(hash_file(str(path)) for path in (WEIGHTS_FILE, COMMON_FILE, terminology.INDEX_FILE)))


def identify_codes(paths: Sequence[Path]) -> list[str]:
    """Returns what decides the codes of a run: terminologies, weights, lists; empty where there is no terminology.

    Raises:
        MedpipeError: INPUT_NOT_FOUND, INPUT_UNREADABLE.
    """
    found: list[str] = terminology.identify(paths)
    return [*found, f"rules {_hash_data()}"] if found else []


def code_columns(
    coder: Coder | None,
    texts: Sequence[str],
    text: np.ndarray,
    starts: np.ndarray,
    mentions: pa.StringArray,
    label: np.ndarray,
    labels: Sequence[str],
) -> dict[str, pa.Array]:
    """Returns the three columns of ``entities`` that say which code each mention has.

    Args:
        coder: None where there is no terminology.
        texts: the notes.
        text: shape: (mentions,), int64; which note each is of; ascending.
        starts: shape: (mentions,), int64; their offsets in their notes.
        mentions: as written.
        label: shape: (mentions,), int64; places in ``labels``.
        labels: all there are.
    """
    coded = [number for number, name in enumerate(labels) if coder is not None and coder.serves(name)]
    wanted = np.flatnonzero(np.isin(label, coded))
    written = mentions.take(pa.array(wanted)).to_pylist()
    at, names = starts[wanted].tolist(), [labels[number] for number in label[wanted]]
    # Where the mentions of each note begin among the wanted ones.
    limits = np.searchsorted(text[wanted], np.arange(len(texts) + 1)).tolist()
    found = [
        code
        for note, (first, last) in zip(texts, pairwise(limits), strict=True)
        if coder is not None and first < last
        for code in coder.code_text(note, written[first:last], at[first:last], names[first:last])
    ]
    place = np.full(len(label), -1)
    place[wanted] = np.arange(len(wanted))
    line = pa.array(place, mask=place < 0)
    columns = (
        ("code_system", "system", pa.string()),
        ("code", "code", pa.string()),
        ("code_score", "score", pa.float64()),
    )
    return {
        column: pa.array([getattr(code, name, None) for code in found], kind).take(line)
        for column, name, kind in columns
    }
