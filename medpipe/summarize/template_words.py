"""The closed vocabulary of the generator: words that hold a sentence together and state no clinical fact.

The pointer network may write these by itself; every other word has to be copied from the note. Left out on purpose,
so that they too can only be copied: negations ("no", "without", "denies"), numbers and number words, laterality,
degree, certainty and course ("severe", "suspected", "improved", "started"), sex and the pronouns that state it,
units of time, and every name of a disease, symptom, drug, test, procedure or part of the body.
"""

from __future__ import annotations

TEMPLATE_WORDS = frozenset(
    """
    . , ; : ( ) - a an the this that these those which who whom whose what when where while as of to in for with
    on at from by after before during into over under between through until since upon within about due because
    although though however but and or also then thus therefore hence if than so both either each is was were
    are be been being has had have having does did do can could may might will would should it its they them
    their there here we our other another such some any more most further additional same own several patient
    patients case cases report reports reported reporting describe describes described present presents
    presented presenting presentation history past medical clinical complaint complaints complained symptom
    symptoms sign signs finding findings examination evaluation assessment investigation investigations
    diagnosis diagnosed diagnostic treatment treated treatments management managed therapy therapeutic course
    condition outcome result results resulting follow following followed up underwent undergone undergoing
    received receiving given performed performing made done taken obtained used using showed shown showing
    revealed revealing demonstrated demonstrating indicated indicating suggested suggesting suggestive found
    identified noted observed seen detected considered consistent compatible developed developing experienced
    required requiring led leading caused associated related referred consulted subsequently subsequent later
    initially initial finally eventually meanwhile previously recently currently now again including included
    involving based according regarding concerning herein furthermore moreover additionally overall states
    stated mentions mentioned notes time set out off
    """.split()  # noqa: SIM905 - a list of quoted words is no easier to read
)
