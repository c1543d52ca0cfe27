"""The next token out of the logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from peerllm.errors import GenerationError, UsageError

Logits = NDArray[np.float32]
"""``[V]`` float32, one row of the head's output."""
Allowed = NDArray[np.bool_]
"""``[V]``, or less: tokens behind its end are not allowed, such as the padding behind a vocabulary."""

MAX_LOGPROBS = 20

# Dividing by less than this only overflows: the likeliest token has all the probability anyway. As in vLLM.
GREEDY_BELOW = 1e-5

_FIRST_LOOK = 1024  # likeliest tokens that are sorted first: nearly always enough for top-p


@dataclass(frozen=True)
class SamplingParams:
    """How to choose among the tokens; the defaults choose by the model's own probabilities.

    `top_k` 0 means all tokens. The penalties look at the whole prompt and answer. `seed` None draws one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raises `UsageError` with the name and range of the field that is out of it."""
        _check_number("temperature", self.temperature, 0, 2)
        _check_number("top_p", self.top_p, 0, 1, above=True)
        _check_number("min_p", self.min_p, 0, 1)
        _check_number("typical_p", self.typical_p, 0, 1, above=True)
        _check_number("presence_penalty", self.presence_penalty, -2, 2)
        _check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        _check_number("repetition_penalty", self.repetition_penalty, 0.1, 10)
        _check_whole("top_k", self.top_k, 0, 1 << 31)
        if self.seed is not None:
            _check_whole("seed", self.seed, -(1 << 63), (1 << 63) - 1)
        for token, bias in self.logit_bias.items():
            _check_whole("logit_bias token", token, 0, 1 << 31)
            _check_number("logit_bias", bias, -100, 100)
        object.__setattr__(self, "logit_bias", MappingProxyType(dict(self.logit_bias)))

    @property
    def penalises(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1


@dataclass(frozen=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability."""

    token: int
    logprob: float


class Sampler:
    """Chooses the tokens of one answer: same parameters with a seed, same logits, same tokens.

    The order, as in vLLM: logit bias, penalties (repetition, then frequency and presence), temperature,
    then the filters top-k, typical-p, top-p and min-p, each on what the one before left, then the draw.
    (llama.cpp has the same order of filters, but applies the temperature last: so here top-p and min-p
    are about the probabilities that are drawn from, as in OpenAI's API.)
    Tokens that are not allowed drop out before the temperature: at 0 it is the likeliest of the allowed ones, and
    what the filters leave is a part of these.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self._random = np.random.default_rng(None if params.seed is None else params.seed % (1 << 64))

    def sample(self, logits: Logits, history: Sequence[int], allowed: Allowed | None = None) -> int:
        """The next token; at temperature 0 the likeliest, of equals the one with the lowest id.

        Args:
            history: tokens of the prompt and the answer so far, for the penalties.
            allowed: the tokens to choose from; None: all.
        Raises:
            GenerationError: logits that are not finite, a bias for a token that there is not, or no token is allowed.
        """
        check_finite(logits)
        adjusted = self._adjusted(logits, history)
        if allowed is None:
            return self._chosen(adjusted)
        tokens = np.flatnonzero(allowed[: logits.size])
        if tokens.size == 0:
            raise GenerationError("the answer's grammar allows none of the model's tokens here")
        return int(tokens[self._chosen(adjusted[tokens])])

    def _chosen(self, logits: Logits) -> int:
        if self.params.temperature < GREEDY_BELOW:
            return int(np.argmax(logits))
        candidates = _filtered(_candidates(logits, self.params), self.params)
        return candidates.drawn(self._random.random())

    def _adjusted(self, logits: Logits, history: Sequence[int]) -> Logits:
        params = self.params
        if not params.logit_bias and not (params.penalises and history):
            return logits
        adjusted = logits.astype(np.float32, copy=True)
        if params.logit_bias:
            _add_bias(adjusted, params.logit_bias)
        if params.penalises and history:
            _penalise(adjusted, history, params)
        return adjusted


def logprobs(logits: Logits, token: int, top: int = 0) -> tuple[TokenLogprob, tuple[TokenLogprob, ...]]:
    """The chosen token's log probability, and the `top` likeliest ones; before bias, penalties and filters.

    Raises:
        UsageError: `top` is not in 0 to 20.
        GenerationError: logits that are not finite.
    """
    _check_whole("top_logprobs", top, 0, MAX_LOGPROBS)
    check_finite(logits)
    wide = logits.astype(np.float64)
    peak = wide.max()
    normaliser = peak + math.log(np.exp(wide - peak).sum())
    likeliest = _likeliest(logits, top) if top else np.empty(0, dtype=np.intp)
    order = np.lexsort((likeliest, -logits[likeliest]))
    alternatives = tuple(TokenLogprob(int(t), float(wide[t] - normaliser)) for t in likeliest[order])
    return TokenLogprob(token, float(wide[token] - normaliser)), alternatives


def check_finite(logits: Logits) -> None:
    """Raises `GenerationError` for logits that hold NaN or an infinity."""
    # Both ends tell: NaN is either, and they take a third of the time of a sum that cannot overflow.
    if logits.size == 0 or not math.isfinite(logits.max()) or not math.isfinite(logits.min()):
        raise GenerationError("the model's logits are not finite: a peer computed nonsense, or the weights are damaged")


def _add_bias(logits: Logits, bias: Mapping[int, float]) -> None:
    unknown = [token for token in bias if token >= logits.size]
    if unknown:
        raise GenerationError(f"logit_bias names token {unknown[0]}, the model has {logits.size}")
    logits[list(bias)] += np.fromiter(bias.values(), np.float32, len(bias))


def _penalise(logits: Logits, history: Sequence[int], params: SamplingParams) -> None:
    """Source: CTRL (Keskar et al. 2019) for repetition; OpenAI's API for frequency and presence."""
    tokens, counts = np.unique(np.asarray(history), return_counts=True)
    known = tokens < logits.size
    tokens, counts = tokens[known], counts[known].astype(np.float32)
    scores = logits[tokens]
    scores = np.where(scores > 0, scores / params.repetition_penalty, scores * params.repetition_penalty)
    logits[tokens] = scores - params.frequency_penalty * counts - params.presence_penalty


@dataclass(frozen=True)
class _Candidates:
    """Tokens in rising order and their probabilities, which add up to 1."""

    tokens: NDArray[np.intp]
    probabilities: NDArray[np.float32]

    def keep(self, positions: NDArray[np.intp]) -> _Candidates:
        remaining = self.probabilities[positions]
        return _Candidates(self.tokens[positions], remaining / remaining.sum())

    def drawn(self, point: float) -> int:
        """The token at which the cumulated probability passes `point`, 0 <= point < 1."""
        cumulated = np.cumsum(self.probabilities, dtype=np.float64)
        position = int(np.searchsorted(cumulated, point * cumulated[-1], side="right"))
        return int(self.tokens[min(position, self.tokens.size - 1)])


def _candidates(logits: Logits, params: SamplingParams) -> _Candidates:
    tokens = _likeliest(logits, params.top_k)
    scores = logits[tokens] if params.top_k else logits
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((scores - scores.max()) / np.float32(params.temperature))
    return _Candidates(tokens, weights / weights.sum())


def _filtered(candidates: _Candidates, params: SamplingParams) -> _Candidates:
    """What typical-p, top-p and min-p leave; at least the likeliest token."""
    if params.typical_p < 1:
        distance = _surprise_distance(candidates.probabilities)
        candidates = candidates.keep(_nucleus(candidates.probabilities, distance, params.typical_p))
    if params.top_p < 1:
        candidates = candidates.keep(_nucleus(candidates.probabilities, -candidates.probabilities, params.top_p))
    if params.min_p > 0:
        least = params.min_p * candidates.probabilities.max()
        candidates = candidates.keep(np.flatnonzero(candidates.probabilities >= least))
    return candidates


def _likeliest(logits: Logits, top_k: int) -> NDArray[np.intp]:
    """Ids of the `top_k` highest logits in rising order; all of them for 0.

    Of equal logits at the border the lowest ids stay, so that the choice does not depend on numpy's partition.
    """
    if not 0 < top_k < logits.size:
        return np.arange(logits.size)
    border = np.partition(logits, logits.size - top_k)[logits.size - top_k]
    above = np.flatnonzero(logits > border)
    at = np.flatnonzero(logits == border)[: top_k - above.size]
    return np.sort(np.concatenate((above, at)))


def _surprise_distance(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far each token's surprise is from the expected one. Source: Meister et al. 2022, typical sampling."""
    surprise = -np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return np.abs(surprise - (probabilities * surprise).sum())


def _nucleus(probabilities: NDArray[np.float32], badness: NDArray[np.float32], share: float) -> NDArray[np.intp]:
    """The best positions that together hold `share` of the probability. Source: Holtzman et al. 2020."""
    order = _best_first(badness, _FIRST_LOOK)
    cumulated = np.cumsum(probabilities[order], dtype=np.float64)
    if cumulated[-1] < share and order.size < badness.size:
        order = _best_first(badness, badness.size)
        cumulated = np.cumsum(probabilities[order], dtype=np.float64)
    return np.sort(order[: int(np.searchsorted(cumulated, share)) + 1])


def _best_first(badness: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The positions of the `count` smallest values and of all that equal the last of them, smallest first."""
    if count >= badness.size:
        return np.argsort(badness, kind="stable")
    border = np.partition(badness, count - 1)[count - 1]
    best = np.flatnonzero(badness <= border)
    return best[np.argsort(badness[best], kind="stable")]


def _check_number(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    valid = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not valid or (above and value == low):
        start = f"above {low}" if above else f"from {low}"
        raise UsageError(f"{name}: must be a number {start} to {high}, not {value!r:.40}")


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name}: must be a whole number from {low} to {high}, not {value!r:.40}")
