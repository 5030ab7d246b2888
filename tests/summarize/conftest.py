"""A small untrained summarizer and invented notes."""

from __future__ import annotations

import pytest
import torch

from medpipe.records import ModelId
from medpipe.summarize.features import Vocabulary
from medpipe.summarize.network import NetworkConfig, SummaryNetwork
from medpipe.summarize.repair import DecodeConfig
from medpipe.summarize.stage import Summarizer
from medpipe.summarize.template_words import TEMPLATE_WORDS

NOTE = (
    "HISTORY:\nThe patient is a 64-year-old woman with chronic heart failure and no chest pain. "
    "She was admitted on 3 May with shortness of breath.\n"
    "Creatinine was 2.1 mg/dL; furosemide 40 mg was given twice daily. "
    "There was no fever, cough or pain in the left knee. "
    "A chest X-ray showed a small pleural effusion on the right side.\n\n"
    "PLAN:\n- Continue furosemide 40 mg.\n- Return if breathing gets worse."
)


@pytest.fixture(scope="session")
def note() -> str:
    return NOTE


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(sorted(TEMPLATE_WORDS))


@pytest.fixture(scope="session")
def network(vocabulary: Vocabulary) -> SummaryNetwork:
    torch.manual_seed(5)
    config = NetworkConfig(
        word_size=16, token_hidden=12, sentence_hidden=10, memory_size=24, decoder_hidden=20, output_size=16
    )
    return SummaryNetwork(config, torch.from_numpy(vocabulary.buckets)).eval()


@pytest.fixture(scope="session")
def stage(network: SummaryNetwork, vocabulary: Vocabulary) -> Summarizer:
    decode = DecodeConfig(max_length=40, min_length=8, fill_tokens=40)
    return Summarizer(network, vocabulary, decode, model=ModelId("toy", "0", "0" * 32))
