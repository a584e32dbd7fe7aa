"""What a profile of a source gains on its other speakers, against the built-in calibration.

    python -m benchmarks.calibration [SPEECH_DIR] [CORPUS ...]

SPEECH_DIR (default ../shared/speech beside the repository) holds `clips.csv`. Of each corpus (default msc_ml and
asterisk_multi) every second speaker makes a profile as `callstream calibrate` does, and the others are compared with it and
without; then the other way round. Recordings are compared as wholes and with the first 1, 2, 3 and 5 s of others.
"""

import sys

import msgspec

from benchmarks.machine import describe
from benchmarks.recordings import listed
from pipeline.accuracy import measures
from pipeline.accuracy.audio import Band
from pipeline.accuracy.calibrate import MIN_SPEAKERS, comparison_of, source_trials
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.fitting import balanced
from pipeline.accuracy.sessions import Condition, Session, chosen_clips, extractor
from pipeline.scoring.profile import Profile
from pipeline.settings import default_cache_dir

CORPORA = ("msc_ml", "asterisk_multi")


def costs(sessions: list[Session], band: Band, options: Options) -> tuple[float, float, float]:
    """Cllr, its minimum, and the EER in percent."""
    trials = source_trials({band: sessions}, options)
    weight = balanced(trials.target, trials.speaker_a)
    measured = (measure(trials.llr, trials.target, weight) for measure in (measures.cllr, measures.min_cllr))
    return *measured, 100 * measures.equal_error_rate(trials.llr, trials.target, weight)  # type: ignore[return-value]


def rows(corpus: str, band: Band, sessions: list[Session], options: Options) -> list[str]:
    """A row for each half that has speakers enough for a profile."""
    speakers = sorted({one.speaker for one in sessions})
    found = []
    for first in (0, 1):
        made_of = set(speakers[first::2])
        if len(made_of) < MIN_SPEAKERS:
            continue  # the command would refuse them
        seen, unseen = ([one for one in sessions if (one.speaker in made_of) == side] for side in (True, False))
        backend, _ = comparison_of({band: seen}, options)
        before = costs(unseen, band, options)
        after = costs(unseen, band, msgspec.structs.replace(options, profile=Profile(comparison=backend)))
        cells = [f"{cllr:.3f} ({least:.3f}), {eer:.1f}" for cllr, least, eer in (before, after)]
        found.append(f"| {corpus} | {band} | {len(made_of)} | {' | '.join(cells)} | {after[0] / before[0]:.2f} |")
    return found


def main() -> None:
    """Print the table, if there are recordings."""
    manifest = listed("clips.csv")
    if manifest is None:
        return
    options = Options(cache_dir=default_cache_dir(), resamples=0)
    print(describe() + "\n")
    print("| corpus | band | speakers of the profile | built in: Cllr (min), EER % | profile | Cllr, ratio |")
    print("|---|---|---|---|---|---|")
    for corpus in sys.argv[2:] or CORPORA:
        clips = chosen_clips(manifest, "speaker", limit=options.limit, corpora=[corpus])
        for band in Band:
            sessions = extractor(options).sessions(clips, Condition(band), lambda _: None)
            print("\n".join(rows(corpus, band, sessions, options)), flush=True)


if __name__ == "__main__":
    main()
