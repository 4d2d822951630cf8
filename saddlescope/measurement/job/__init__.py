"""A spectrum table as a restartable job: what it will take, what is on disk, what is missing."""

from saddlescope.measurement.job.kept import Rows, row_key
from saddlescope.measurement.job.parts import part_file, part_files, read_part, write_part
from saddlescope.measurement.job.plan import PlannedRow, plan_rows
from saddlescope.measurement.job.spectrum import Keeper, SpectrumJob
