"""Which language is spoken."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.models.execution import ALONE, Execution
from pipeline.models.features import HOP_SAMPLES, SAMPLE_RATE_HZ, whisper_log_mel
from pipeline.models.session import Session

FloatArray = npt.NDArray[np.float32]

# RFC 5646 tags in the order of Whisper's language tokens (whisper/tokenizer.py); its "jw" is Javanese, "jv"
_TAGS: Final = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml cy sk "
    "te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo "
    "ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jv su"
)
LABELS: Final = tuple(_TAGS.split())

# languages that hardly anyone asks for and that Whisper confuses with common ones: leaving them out raised the share of right
# answers of the base model from 87 to 93-95 % over 13 languages
_MASKED: Final = "la cy nn sa mi haw yi bo ln jv br eu gl fo oc"
MASKED_BY_DEFAULT: Final = frozenset(_MASKED.split())

MAX_CONTEXT_S: Final = 30.0
PADDING_S: Final = 2.0  # of silence behind the speech, without which the posteriors get worse
_MAX_SAMPLES: Final = int(MAX_CONTEXT_S * SAMPLE_RATE_HZ)
_CONTEXT_STEP_SAMPLES: Final = 2 * HOP_SAMPLES  # the encoder halves the number of frames


class LanguageIdentifier:
    """Whisper's language tokens (https://arxiv.org/abs/2212.04356) after the start token. Thread-safe."""

    def __init__(
        self,
        encoder_path: Path | str,
        decoder_path: Path | str,
        bins: int = 80,
        encoder_names: tuple[str, str] = ("input_features", "last_hidden_state"),
        decoder_names: tuple[str, str] = ("encoder_hidden_states", "language_logits"),
        execution: Execution = ALONE,
    ) -> None:
        """Open the converted models, with the names of each one's input and output. Raises ModelError."""
        self._encoder = Session(encoder_path, encoder_names[:1], encoder_names[1], execution)
        # it makes one step, of one utterance
        self._decoder = Session(decoder_path, decoder_names[:1], decoder_names[1], execution.alone())
        self._execution = execution
        self._bins = bins

    @property
    def labels(self) -> tuple[str, ...]:
        """RFC 5646 tags, in the order of the posteriors."""
        return LABELS

    def log_posteriors(self, samples: FloatArray, context_s: float | None = None) -> FloatArray:
        """float32 (n,) in [-1, 1] at 16 kHz, n >= 1 -> natural-log posteriors over all labels, float32 (99,), nothing masked.

        `context_s` is how long the audio is made by zeros behind it, by default 2 s more than it is, in batches up to an eighth
        longer, and 30 s at most; of audio beyond 30 s nothing is heard. Raises ValueError when there are no samples.
        """
        if samples.ndim != 1 or not samples.size:
            raise ValueError(f"samples of shape {samples.shape} where (n,) with n >= 1 is needed")
        heard = samples[:_MAX_SAMPLES]
        wanted = heard.size + int(PADDING_S * SAMPLE_RATE_HZ) if context_s is None else int(context_s * SAMPLE_RATE_HZ)
        context = min(_MAX_SAMPLES, max(wanted, heard.size))
        steps = self._execution.length(-(-context // _CONTEXT_STEP_SAMPLES))
        context = min(_MAX_SAMPLES, steps * _CONTEXT_STEP_SAMPLES)
        features = whisper_log_mel(np.pad(heard, (0, context - heard.size)), self._bins)
        logits = self._decoder.run(self._encoder.run(features[np.newaxis])).reshape(-1).astype(np.float64)
        shifted = logits - logits.max()
        log_posteriors: FloatArray = (shifted - np.log(np.exp(shifted).sum())).astype(np.float32)
        return log_posteriors
