"""`dist-rec doctor`: checks whether a run would work on this machine, and names the missing installs."""

from dist_rec.doctor.report import run_doctor

__all__ = ["run_doctor"]
