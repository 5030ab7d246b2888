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
# By how much a tag has to lose before rounding cannot make it win: sums over a sentence have errors of about 1e-4.
MARGIN = 0.01


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


def may_hold_entities(emissions: Tensor, transitions: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Returns which chains may hold an entity; the best path of all others is OUTSIDE throughout, whatever else.

    Against the path that stays outside, an entity gains at each of its tokens what the tag scores more than OUTSIDE and
    at most the best transition into the tag, and out of it. Where neither a single token nor the best begin, the best
    end and all that is gained inside come to more than nothing, no path is better than the one that stays outside.

    Args:
        emissions: shape: (…, time, chains, tags).
        transitions: shape: (tags, tags), from and to.
        starts: shape: (tags,).
        ends: shape: (tags,).

    Returns:
        shape: (…, chains), bool.
    """
    stay = transitions[OUTSIDE, OUTSIDE]
    into = torch.maximum((transitions - stay).amax(0), starts - starts[OUTSIDE])  # shape: (tags,)
    out = torch.maximum(transitions[:, OUTSIDE] - stay, ends - ends[OUTSIDE]).clamp(min=0)
    gain = emissions - emissions[..., OUTSIDE : OUTSIDE + 1] + (into + out)
    best = gain.amax(-3)  # shape: (…, chains, tags)
    inside = gain[..., INSIDE].clamp(min=0).sum(-2)
    return (best[..., SINGLE] > -MARGIN) | (best[..., BEGIN] + inside + best[..., END] > -MARGIN)


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
    # Sums of exponentials, brought back to a largest one of 1 at every step: the steps are products of small matrices
    # then, several times faster than log-sum-exp. What a step is divided by is kept as a logarithm.
    peak = emissions.amax(2)  # shape: (time, chains)
    weight = (emissions - peak.unsqueeze(2)).exp()
    matrix = transitions.exp()
    state, scale = _scaled(starts.exp() * weight[0])
    forward, forward_scales = [state], [scale]
    for step in range(1, time):
        state, scale = _scaled((state @ matrix) * weight[step])
        forward.append(state)
        forward_scales.append(scale)
    leaving = ends.exp().expand(chains, tags)
    back = matrix.t().contiguous()
    state, nothing = leaving, torch.zeros_like(scale)
    backward, backward_scales = [state], [nothing]
    for step in range(time - 2, -1, -1):
        before, scale = _scaled((state * weight[step + 1]) @ back)
        # Behind its end a chain has nothing but its end score.
        inside = lengths - 1 > step
        state = torch.where(inside.unsqueeze(1), before, leaving)
        backward.append(state)
        backward_scales.append(torch.where(inside, scale + peak[step + 1], nothing))
    alpha = torch.stack(forward).log() + (torch.stack(forward_scales) + peak).cumsum(0).unsqueeze(2)
    # shape: (time, chains, tags)
    beta = (torch.stack(backward).log() + torch.stack(backward_scales).cumsum(0).unsqueeze(2)).flip(0)
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


def _scaled(state: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what makes the largest of every chain 1, and the logarithm of what it was divided by."""
    largest = state.amax(1, keepdim=True)
    return state / largest, largest.squeeze(1).log()


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


def every_span(path: Tensor) -> tuple[Tensor, Tensor]:
    """Does what ``read_spans`` does without asking how many spans there are: on a GPU that would be waited for.

    Returns:
        For every token of every chain the span that would end there: chain, first and last token, shape:
        (chains * time, 3), int64; and whether one does, shape: (chains * time,), bool.
    """
    chains, time = path.shape
    steps = torch.arange(time, device=path.device).expand(chains, time)
    opening = (path == BEGIN) | (path == SINGLE)
    closing = (path == END) | (path == SINGLE)
    first = torch.where(opening, steps, 0).cummax(1).values  # the last opening up to here
    chain = torch.arange(chains, device=path.device)[:, None].expand(chains, time)
    return torch.stack([chain, first, steps], dim=2).reshape(-1, 3), closing.reshape(-1)
