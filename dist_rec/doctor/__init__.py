"""`dist-rec doctor`: would a run work on this machine, and if not, what has to be installed."""

from dist_rec.doctor.report import run_doctor

__all__ = ["run_doctor"]
