"""Where models run, and how many utterances one run takes."""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

_STEPS_PER_OCTAVE: Final = 8


class Provider(enum.StrEnum):
    """Where models run: onnxruntime's execution provider (https://onnxruntime.ai/docs/execution-providers/)."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclasses.dataclass(frozen=True)
class Execution:
    """How models run.

    `batch` is the largest number of utterances that one run takes, of one call or of many; 1 gives each a run of its own.
    `wait_s` is the longest that an utterance waits for others, in each model.
    """

    provider: Provider = Provider.CPU
    batch: int = 1
    wait_s: float = 0.0

    @property
    def is_batched(self) -> bool:
        """Whether utterances share runs."""
        return self.batch > 1

    @property
    def needs_floats(self) -> bool:
        """Whether quantised weights are to be multiplied as floats.

        What is quantised at run time takes its range from the whole batch, so that one call would change what another says;
        and CUDA has no DynamicQuantizeLinear: each product would go to the CPU and back.
        """
        return self.is_batched or self.provider is Provider.CUDA

    def alone(self) -> Execution:
        """The same without batches."""
        return dataclasses.replace(self, batch=1)

    def length(self, count: int) -> int:
        """How long an input of so many samples or frames is made: only what is equally long can share a run.

        Next to one another in eight steps an octave, at most an eighth longer; as it is where nothing is shared.
        """
        if not self.is_batched:
            return count
        step = max(1, (1 << (count.bit_length() - 1)) // _STEPS_PER_OCTAVE)
        return -(-count // step) * step


ALONE: Final = Execution()
