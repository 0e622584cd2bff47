"""The work of `bench`, `warm` and `quantize`: I/O around proxy/toolbox, imported when one of them runs."""
