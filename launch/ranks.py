"""torchrun for `local.sh` and `multinode.sh`: takes its arguments, and lets the ranks have the last word.

torchrun itself ends a failed job with its own log and a traceback of itself, above which the sentence of the rank that
failed is hard to find. Here a rank that says what was wrong is left alone, and only one that could not speak is spoken
for. What is different while the job runs: agent.py."""

import argparse
import logging
import os
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from agent import PASSED_ON, Agent, EndedElsewhere, Job, exit_code, first_failure, how_it_ended
from meeting import MeetingError, prepare
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousError, RendezvousTimeoutError
from torch.distributed.launcher import api
from torch.distributed.run import parse_args, run

GO_ON = 75  # EX_TEMPFAIL: the same command, called again, goes on


def main(arguments: list[str]) -> int:
    """0 if all went well, 75 if the job was interrupted; else the exit code of the first rank that failed, 128 + the
    signal's number if one ended it."""
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each has a level of its own
    args = parse_args(arguments)
    args.signals_to_handle = "SIGINT,SIGHUP,SIGQUIT"  # torch kills the workers 30 s after those that it handles
    if args.max_restarts or not args.standalone:
        # Torch's shared store outlives the workers: those of the next round would read addresses of the last one.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    try:
        grace_s = _grace_s()
        with tempfile.TemporaryDirectory(prefix="dist_rec-") as folder:
            job = Job(Path(folder) / "interrupted", grace_s)
            os.environ["DIST_REC_INTERRUPTED"] = str(job.interrupted)
            return _run(args, job)
    except MeetingError as error:
        return _say(str(error), 1)


def _grace_s() -> float:
    given = os.environ.get("DIST_REC_GRACE_S") or "120"
    if not given.isdecimal() or int(given) < 1:
        raise MeetingError(f"DIST_REC_GRACE_S must be a positive number of seconds, got '{given}'")
    return float(given)


def _run(args: argparse.Namespace, job: Job) -> int:
    api.LocalElasticAgent = partial(Agent, job)  # the launcher makes one itself, and takes no other
    for signum in PASSED_ON:
        signal.signal(signum, _before_the_agent)
    try:
        if args.rdzv_backend == "c10d" and not args.standalone:
            prepare(args)
        run(args)
    except ChildFailedError as error:
        return _of_failure(error, job)
    except EndedElsewhere as error:
        return _say(f"another host has ended the job, with exit code {error.code}; it says why", error.code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SignalException as error:
        return GO_ON if error.sigval in PASSED_ON else 128 + error.sigval
    except (RendezvousError, DistError) as error:
        return _of_meeting(error, args, job)
    return GO_ON if job.interrupted.exists() else 0


def _before_the_agent(signum: int, _frame: object) -> None:
    raise SignalException("before there were workers", signal.Signals(signum))


def _of_failure(error: ChildFailedError, job: Job) -> int:
    rank, failure = first_failure(error.failures)
    if job.killed:
        return _say(f"the ranks {job.killed}, and were killed; the newest checkpoint is from before", 137)
    if job.asked and -failure.exitcode in PASSED_ON:  # it came before the worker could listen: nothing is lost
        return GO_ON
    if failure.exitcode < 0:
        print(f"error: rank {rank} {how_it_ended(failure)}", file=sys.stderr)
    return exit_code(failure)


def _of_meeting(error: Exception, args: argparse.Namespace, job: Job) -> int:
    if job.asked:
        return GO_ON
    if isinstance(error, RendezvousClosedError):
        return _say(f"the job '{args.rdzv_id}' at {args.rdzv_endpoint} was ended by another host; it says why", GO_ON)
    if isinstance(error, RendezvousTimeoutError):
        expected = f"expected {args.nnodes} hosts at {args.rdzv_endpoint} within DIST_REC_JOIN_S"
        return _say(f"{expected}, fewer came", GO_ON if job.began else 1)
    return _say(f"lost the host of the rendezvous, {args.rdzv_endpoint}: {' '.join(str(error).split())[:200]}", GO_ON)


def _say(what: str, code: int) -> int:
    print(f"error: {what}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
