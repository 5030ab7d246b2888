"""Linear-chain CRFs over BIOES tags, one chain for every label and nesting level of a sentence.

The likelihood is that of ``pytorch-crf`` (Lafferty et al. 2001); here are what it lacks: the constraints of the
BIOES scheme, a batched Viterbi, and the exact probability of a span. All chains of a batch are decoded at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

TAGS = ("O", "B", "I", "E", "S")
OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(len(TAGS))
# What a forbidden transition costs: enough to never be taken, small enough for float16 on disk.
FORBIDDEN = -10_000.0


def allowed_transitions() -> tuple[Tensor, Tensor, Tensor]:
    """Returns which tags may follow each other, start a sentence and end one.

    Returns:
        ``transitions`` (from, to), ``starts``, ``ends``: shapes (5, 5), (5,), (5,), bool.
    """
    closed = [OUTSIDE, END, SINGLE]  # after these no entity is open
    opening = [OUTSIDE, BEGIN, SINGLE]
    transitions = torch.zeros(len(TAGS), len(TAGS), dtype=torch.bool)
    for before in range(len(TAGS)):
        transitions[before, opening if before in closed else [INSIDE, END]] = True
    starts = torch.zeros(len(TAGS), dtype=torch.bool)
    starts[opening] = True
    ends = torch.zeros(len(TAGS), dtype=torch.bool)
    ends[closed] = True
    return transitions, starts, ends


def viterbi(emissions: Tensor, lengths: Tensor, transitions: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Returns the best tag path of every chain (Viterbi 1967; Forney 1973).

    The forward pass keeps only the best scores; which tag they came from is computed on the way back, for the
    one path that is taken.

    Args:
        emissions: shape: (time, chains, tags).
        lengths: shape: (chains,), at least 1 each, the longest equal to time.
        transitions: shape: (tags, tags), from and to.
        starts: shape: (tags,).
        ends: shape: (tags,).

    Returns:
        shape: (chains, time), int64; OUTSIDE after a chain's end.
    """
    time, chains, _ = emissions.shape
    last = lengths - 1
    best = [starts + emissions[0]]  # time × shape: (chains, tags)
    for step in range(1, time):
        # shape: (chains, from, to) -> (chains, to)
        best.append((best[-1].unsqueeze(2) + transitions).amax(1) + emissions[step])
    path = torch.empty(time, chains, dtype=torch.long, device=emissions.device)
    into = transitions.t().contiguous()  # shape: (to, from)
    tag = torch.full((chains,), OUTSIDE, device=emissions.device)
    for step in range(time - 1, -1, -1):
        # A chain that ends here starts its way back; one that has ended before is outside.
        tail = torch.where((last == step).unsqueeze(1), ends, into[tag])
        tag = torch.where(last >= step, (best[step] + tail).argmax(1), OUTSIDE)
        path[step] = tag
    return path.t()


def span_log_probabilities(
    emissions: Tensor, lengths: Tensor, transitions: Tensor, starts: Tensor, ends: Tensor, path: Tensor, spans: Tensor
) -> Tensor:
    """Returns the log-probability that a chain's tags hold exactly these entities at these places.

    That is the posterior of the tags ``B I … I E`` (or ``S``) over the span, summed over all that may stand
    before and behind it: forward score into the span, score of the span, backward score out of it. Give it
    float64: these are differences of sums over the chain.

    Args:
        emissions: shape: (time, chains, tags); as for ``viterbi``, so are the next four.
        lengths: shape: (chains,).
        transitions: shape: (tags, tags).
        starts: shape: (tags,).
        ends: shape: (tags,).
        path: shape: (chains, time); tags that hold the spans.
        spans: shape: (spans, 3): chain, first and last token.

    Returns:
        shape: (spans,).
    """
    time, chains, tags = emissions.shape
    forward = [starts + emissions[0]]
    for step in range(1, time):
        forward.append(torch.logsumexp(forward[-1].unsqueeze(2) + transitions, dim=1) + emissions[step])
    backward = [ends.expand(chains, tags)]
    for step in range(time - 2, -1, -1):
        # shape: (chains, from, to) -> (chains, from)
        before = torch.logsumexp(transitions + (emissions[step + 1] + backward[-1]).unsqueeze(1), dim=2)
        # Behind its end a chain has nothing but its end score.
        backward.append(torch.where((lengths - 1 > step).unsqueeze(1), before, ends))
    alpha = torch.stack(forward)  # shape: (time, chains, tags)
    beta = torch.stack(backward[::-1])
    partition = torch.logsumexp(alpha[0] + beta[0], dim=1)  # shape: (chains,)

    # Running score of the path, so that the score inside a span is a difference.
    steps = path.t()  # shape: (time, chains)
    scores = emissions.gather(2, steps.unsqueeze(2)).squeeze(2).clone()
    scores[1:] += transitions[steps[:-1], steps[1:]]
    running = scores.cumsum(0)  # behind a chain's end it holds nothing of use
    chain, first, last = spans.unbind(1)
    inner = running[last, chain] - running[first, chain]
    entry = alpha[first, chain, steps[first, chain]]
    leave = beta[last, chain, steps[last, chain]]
    return (entry + inner + leave - partition[chain]).clamp(max=0.0)


def read_spans(path: Tensor) -> Tensor:
    """Returns the spans of tag paths that obey the constraints.

    Args:
        path: shape: (chains, time), OUTSIDE after a chain's end.

    Returns:
        shape: (spans, 3), int64: chain, first token, last token (inclusive); by chain, then by first token.
    """
    # Every B has its E before the next B or S, so the n-th opening belongs to the n-th closing.
    opening = ((path == BEGIN) | (path == SINGLE)).nonzero()
    closing = ((path == END) | (path == SINGLE)).nonzero()
    return torch.cat([opening, closing[:, 1:]], dim=1)
