"""The work of `bench`, `warm` and `quantize`: I/O around workbench/, imported when one of them runs."""
