"""The months that every asset is partitioned by."""

import dagster as dg

MONTHS = dg.MonthlyPartitionsDefinition(start_date="2015-01", fmt="%Y-%m")
