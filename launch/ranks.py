"""torchrun for `local.sh`: takes its arguments, and lets the ranks have the last word.

torchrun itself ends a failed job with its own log and a traceback of itself, above which the sentence of the rank that
failed is hard to find. Here a rank that says what was wrong is left alone, and only one that could not speak is spoken
for."""

import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(arguments: list[str]) -> int:
    """The exit code of the first rank that failed, 128 + the signal's number if one ended it; 0 if all went well."""
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each has a level of its own
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        why = "; the system does that to the largest process when memory runs out" if name == "SIGKILL" else ""
        print(f"error: rank {rank} was ended by {name}{why}", file=sys.stderr)
        return 128 - failure.exitcode
    except (SignalException, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
